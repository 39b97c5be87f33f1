"""TensorFlow Lite files: reader, writer, converter, interpreter."""
