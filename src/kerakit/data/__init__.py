"""From files on the disk to batches of uint8 pixels."""
