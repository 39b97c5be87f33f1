"""What happens around ``fit``; ``fit`` itself belongs to the project.

Imports nothing heavy: flags are checked against ``TRACKER_NAMES`` before TensorFlow is loaded.
"""

TRACKER_NAMES = ("mlflow", "wandb")
"""What ``--track`` takes: the packages that a training can be tracked with."""
