"""TensorFlow Lite files: reading, editing, converting, running."""
