"""The errors that a user reads. Each says what happened and where, what was expected, and what to do."""


class KerakitError(Exception):
    """Anything that Kerakit reports in words instead of a stack trace."""

    exit_code = 1


class UserError(KerakitError):
    """Called wrongly, or bad input. Scripts end with exit code 2."""

    exit_code = 2


class ImageError(UserError):
    """An image cannot be read.

    Attributes:
        reason: why, without its path.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"cannot read the image {path}: {reason}. Mend it, remove it, or leave it out (kerakit check).")
        self.reason = reason


class JobError(KerakitError):
    """The job ran and failed. Scripts end with exit code 1."""


class WeightsNotFoundError(UserError):
    """Pretrained weights cannot be had on this machine."""
