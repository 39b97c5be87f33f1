"""What happens around ``fit``; ``fit`` itself belongs to the project."""
