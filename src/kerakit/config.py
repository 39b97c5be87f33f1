"""Configuration: the flags of a script, their validation, and the ``config.json`` of a run."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from pydantic import BaseModel, ConfigDict, ValidationError

from kerakit import __version__
from kerakit.errors import UserError
from kerakit.files import read_json, write_json


def _comma_separated(item: Callable[[str], Any], metavar: str, count: int | None = None) -> Any:
    """Return the tyro constructor of a flag with comma-separated values, such as ``224,224``."""

    def parse(words: list[str]) -> tuple[Any, ...]:
        parts = words[0].split(",")
        if count is not None and len(parts) == 1:
            parts *= count
        if count is not None and len(parts) != count:
            raise ValueError(f"expected {metavar}, got {words[0]!r}")
        try:
            return tuple(item(part.strip()) for part in parts)
        except ValueError:
            raise ValueError(f"expected {metavar}, got {words[0]!r}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


InputSize = Annotated[tuple[int, int], _comma_separated(int, "WIDTH,HEIGHT", count=2)]
"""(width, height) in pixels; on the command line ``224,192``, or ``224`` for 224 by 224.

>>> class Flags(Config):
...     input_size: InputSize = (224, 224)
>>> Flags.parse(["--input_size", "32,24"]).input_size
(32, 24)
"""


def check_choice(what: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``; otherwise raise ValueError with the closest.

    >>> check_choice("model", "small_cnn", ["small_cnn"])
    'small_cnn'
    """
    names = list(choices)
    if value in names:
        return value
    close = difflib.get_close_matches(value, names, n=1)
    hint = f", did you mean {close[0]!r}?" if close else "."
    raise ValueError(f"unknown {what} {value!r}{hint} Expected one of {', '.join(names)}")


class List:
    """Types of flags with comma-separated values.

    >>> class Flags(Config):
    ...     loss_weights: List.Float = (1.0,)
    >>> Flags.parse(["--loss_weights", "1,0.5"]).loss_weights
    (1.0, 0.5)
    """

    Text = Annotated[tuple[str, ...], _comma_separated(str, "A,B,...")]
    Float = Annotated[tuple[float, ...], _comma_separated(float, "X,Y,...")]


class Config(BaseModel):
    """A flat, frozen record. Each field is a flag, and a key of ``config.json``.

    >>> class Flags(Config):
    ...     num_epochs: int = 10
    >>> Flags.parse(["--num_epochs", "3"]).num_epochs
    3
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    kerakit: tyro.conf.Suppress[str] = __version__

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(_describe(error)) from None

    @classmethod
    def parse(cls, args: Sequence[str] | None = None, description: str | None = None) -> Self:
        """Parse the fields from ``args`` (default: the command line).

        ``--flag`` and ``--no_flag`` (also ``--noflag``) set a boolean field; ``-`` and ``_`` are
        equivalent. Invalid or unknown flags print what was expected and exit with 2; ``--help``
        prints every field and exits with 0. ``model_fields_set`` holds the names of the flags that
        were given.
        """
        words = [cls._normalize(word) for word in (sys.argv[1:] if args is None else args)]
        parsed = tyro.cli(cls, args=words, use_underscores=True, description=description or "")
        flags = {
            word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")
        }
        given = {name for name in cls.model_fields if flags & {name, f"no_{name}"}}
        return cls.model_construct(given, **dict(parsed))

    def as_flags(self) -> list[str]:
        """Return the command-line arguments for the fields in ``model_fields_set``."""
        given = self.model_dump(exclude_unset=True, exclude_none=True)
        return [_as_flag(name, value) for name, value in given.items()]

    @classmethod
    def _normalize(cls, word: str) -> str:
        """Return ``--no_jitter`` for absl's spelling ``--nojitter``."""
        field = cls.model_fields.get(word.removeprefix("--no"))
        return (
            f"--no_{word.removeprefix('--no')}"
            if field is not None and field.annotation is bool
            else word
        )

    def save(self, path: Path) -> None:
        """Write every field to ``path`` as JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the fields from ``path``.

        Raises:
            UserError: a missing or damaged file, an unknown key, or an invalid value.
        """
        try:
            values = read_json(path, dict)
        except FileNotFoundError:
            raise UserError(
                f"{path} does not exist. It is written when training starts; is this a run folder?"
            ) from None
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def _as_flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    return f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"


def _describe(error: ValidationError) -> str:
    """Return pydantic's error messages without types, links and class names."""
    return "; ".join(map(_describe_one, error.errors()))


def _describe_one(item: Any) -> str:
    name = str(item["loc"][0]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        return f"unknown key {name!r}. Was it written by another version? Remove it, or train again"
    if item["type"] == "missing":
        return f"{name} is missing"
    message = re.sub("^(Value error, |Input )", "", item["msg"])
    if item["type"] != "value_error":
        message += f", got {item['input']!r}"
    return f"{name}: {message}" if name else message
