"""Report pages and plots."""
