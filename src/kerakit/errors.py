"""Errors with a message for the user: problem, location, expected value, and fix."""

from __future__ import annotations

from collections.abc import Sequence

_LISTED = 3
"""Number of names that ``list_names`` returns."""


class KerakitError(Exception):
    """Base of the errors that are reported as a message instead of a stack trace.

    >>> UserError("no such folder").exit_code
    2
    """

    exit_code = 1


class UserError(KerakitError):
    """Wrong flags or bad input. Scripts exit with 2.

    >>> raise UserError("there is no folder photos. Expected a folder of images.")
    Traceback (most recent call last):
    kerakit.errors.UserError: there is no folder photos. Expected a folder of images.
    """

    exit_code = 2


class ImageError(UserError):
    """An image cannot be read.

    Attributes:
        reason: the reason, without the path.

    >>> ImageError("a.jpg", "the file is empty").reason
    'the file is empty'
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(
            f"cannot read image {path}: {reason}. Fix it, remove it, or exclude it (kerakit check)."
        )
        self.reason = reason


class JobError(KerakitError):
    """The job ran and failed. Scripts exit with 1.

    >>> JobError("NaN loss").exit_code
    1
    """


class WeightsNotFoundError(UserError):
    """Pretrained weights are not available on this machine."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message, or its type if it has none.

    >>> first_line(ValueError("wrong shape\nat layer 3")), first_line(AssertionError())
    ('wrong shape', 'AssertionError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def list_names(names: Sequence[str]) -> str:
    """Return the first three names, and the number of the others.

    >>> list_names(["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"])
    'a.jpg, b.jpg, c.jpg and 2 more'
    """
    listed, others = ", ".join(names[:_LISTED]), len(names) - _LISTED
    return f"{listed} and {others} more" if others > 0 else listed


def printable(text: str) -> str:
    r"""Return one line of untrusted text with escaped control characters and undecodable bytes.

    >>> printable("café \x1b[31m")
    'café \\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    r"""Return untrusted text as ``printable`` does, with its line breaks.

    >>> printable_lines("a\nb\x07").splitlines()
    ['a', 'b\\x07']
    """
    return "\n".join(map(printable, text.split("\n")))
