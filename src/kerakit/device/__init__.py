"""What is copied to a device as it stands here: nothing in it needs Kerakit."""
