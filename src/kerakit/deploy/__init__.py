"""From a trained model to files for devices, each loaded again and measured by what its users run it with.

Imports nothing heavy: flags are checked against ``FORMAT_NAMES`` before TensorFlow is loaded.
"""

FORMAT_NAMES = ("h5", "keras", "float32", "int8", "edgetpu")
"""The formats, in the order in which they are made."""
