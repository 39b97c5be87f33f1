"""Configuration: the flags of a script, their validation, and the ``config.json`` of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tyro
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from kerakit import __version__, provenance
from kerakit.address import as_place, as_url
from kerakit.errors import UserError
from kerakit.files import read_json, write_json
from kerakit.flags import (
    REGISTRY,
    BareFlag,
    Flag,
    arrange_words,
    describe_invalid,
    invalid_flags,
    suggest,
    text_value,
)

PROVENANCE = "provenance"
"""Key of config.json beside the fields: versions, machine, code and flags of the run."""

UNRECORDED = (
    *("save_to", "overwrite", "resume", "allow_changes", "save_minutes", "track", "trials"),
)
"""Flags that do not change the weights of a run."""


def _comma_separated(item: Callable[[str], Any], expected: str) -> BeforeValidator:
    """Return the validator that splits the text of a flag with comma-separated values."""

    def split(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(item(part.strip()) for part in value.split(","))
        except ValueError:
            raise ValueError(f"expected {expected}, got {value!r}") from None

    return BeforeValidator(split)


_SIZE = "WIDTH,HEIGHT in pixels, such as 224,192, or one number for both"


def _split_size(value: Any) -> Any:
    """Return (width, height) of a text: ``224,192``, ``224x192``, or ``224`` for both."""
    if not isinstance(value, str):
        return value
    try:
        sides = tuple(int(part) for part in value.lower().replace("x", ",").split(","))
    except ValueError:
        sides = ()
    if not 1 <= len(sides) <= 2:
        raise ValueError(f"expected {_SIZE}, got {value!r}")
    return sides * 2 if len(sides) == 1 else sides


MAX_INPUT_SIDE = 16384
"""Largest width and height of an input size, in pixels; an image of it has 805 MB."""


def _check_size(value: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= min(value) <= max(value) <= MAX_INPUT_SIDE:
        raise ValueError(
            f"expected a width and a height of at least 1 and at most {MAX_INPUT_SIDE}, got "
            f"{value[0]},{value[1]}"
        )
    return value


InputSize = Annotated[
    tuple[int, int],
    text_value("WIDTH,HEIGHT"),
    BeforeValidator(_split_size),
    AfterValidator(_check_size),
]
"""(width, height) in pixels; on the command line ``224,192``, or ``224`` for 224 by 224.

>>> class Flags(Config):
...     input_size: InputSize = (224, 224)
>>> Flags.parse(["--input_size", "32,24"]).input_size
(32, 24)
"""


def _make_absolute(path: Path) -> Path:
    if as_url(path) is not None:
        return as_place(path)
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"the user {path.parts[0][1:]!r} of {path} does not exist") from None


_DATA = AfterValidator(_make_absolute)

ClassNames = tuple[str, ...] | dict[str, tuple[str, ...]]
"""Type of class names: a tuple, or one per output by its name.

>>> class Recorded(Config):
...     class_names: ClassNames = ()
>>> Recorded(class_names={"animal": ("cat", "dog")}).class_names
{'animal': ('cat', 'dog')}
"""

DataPath = Annotated[Path, _DATA]
"""Path of a dataset: absolute, so that it does not depend on the current folder; or its address.

In ``config.json`` it is relative to the project if it is inside, so that both can be moved.

>>> class Flags(Config):
...     data_dir: DataPath = Path("data")
>>> Flags().data_dir == Path("data").absolute()
True
"""

_OUTPUT = "output folder"

OutputPath = Annotated[Path, _OUTPUT]
"""Path of a folder to write: not the project, its source folders, a parent of it, or the dataset.

>>> class Flags(Config):
...     save_to: OutputPath
>>> Flags.parse(["--save_to", "progress/test"]).save_to.as_posix()
'progress/test'
"""


def check_choice(what: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``; otherwise raise ValueError with the closest.

    >>> check_choice("model", "small_cnn", ["small_cnn"])
    'small_cnn'
    """
    names = list(choices)
    if value in names:
        return value
    raise ValueError(
        f"unknown {what} {value!r}{suggest(value, names)} Expected one of {', '.join(names)}"
    )


Resume = Annotated[Literal["no", "yes", "auto"], BareFlag("yes")]
"""Value of ``--resume``; without a value: "yes".

>>> class Flags(Config):
...     resume: Resume = "no"
>>> Flags.parse(["--resume"]).resume, Flags.parse(["--resume", "auto"]).resume
('yes', 'auto')
"""


class List:
    """Types of flags with comma-separated values.

    >>> class Flags(Config):
    ...     loss_weights: List.Float = (1.0,)
    >>> Flags.parse(["--loss_weights", "1,0.5"]).loss_weights
    (1.0, 0.5)
    """

    Text = Annotated[
        tuple[str, ...], text_value("A,B,..."), _comma_separated(str, "names such as A,B")
    ]
    Float = Annotated[
        tuple[float, ...], text_value("X,Y,..."), _comma_separated(float, "numbers such as 1,0.5")
    ]


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

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _InvalidValuesError(error) from None

    @classmethod
    def parse(cls, args: Sequence[str] | None = None, description: str | None = None) -> Self:
        """Parse the fields from ``args`` (default: the command line).

        ``--flag`` and ``--no_flag`` (also ``--noflag``) set a boolean field; ``-`` and ``_`` are
        equivalent. ``--help`` prints every field and exits with 0. ``model_fields_set`` holds the
        names of the flags that were given.

        Raises:
            UserError: an unknown or missing flag, or an invalid value.
        """
        words = sys.argv[1:] if args is None else args
        words = arrange_words(words, cls._flags(), Path(sys.argv[0]).name)
        try:
            parsed = tyro.cli(
                cls,
                args=words,
                use_underscores=True,
                description=description or "",
                registry=REGISTRY,
            )
        except _InvalidValuesError as error:
            raise invalid_flags(error.cause) from None
        flags = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
        given = {name for name in cls.model_fields if flags & {name, f"no_{name}"}}
        for name, field in cls.model_fields.items():
            if _OUTPUT in field.metadata:
                data = getattr(parsed, "data_dir", None)
                _check_output(name, getattr(parsed, name), cls._project(), data)
        return cls.model_construct(given, **dict(parsed))

    @classmethod
    def _flags(cls) -> list[Flag]:
        fields = cls.model_fields.items()
        flags = [
            Flag(
                name,
                Annotated[field.annotation, "", *field.metadata],
                field.is_required(),
                field.description or "",
            )
            for name, field in fields
        ]
        return [flag for flag in flags if not flag.is_suppressed]

    @classmethod
    def _project(cls) -> Path | None:
        """Return the folder of the file that defines this class."""
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        return Path(file).parent.absolute() if file else None

    def as_flags(self) -> list[str]:
        """Return the command-line arguments for the fields in ``model_fields_set``."""
        given = self.model_dump(exclude_unset=True, exclude_none=True)
        return [_as_flag(name, value) for name, value in given.items()]

    def _recorded_flags(self) -> list[str]:
        """Return the arguments for all fields that are flags, with defaults, except paths of runs.

        So that another default in config.py does not change what they mean.
        """
        values = {flag.name: getattr(self, flag.name) for flag in self._flags()}
        for name in (*UNRECORDED, *self._data_fields()):
            values.pop(name, None)
        return [
            _as_flag(name, value.absolute() if isinstance(value, Path) else value)
            for name, value in values.items()
            if value is not None
        ]

    def save(self, path: Path) -> None:
        """Write every field to ``path`` as JSON, and how the run came about: "provenance"."""
        values = self.model_dump(mode="json")
        project = self._project()
        values[PROVENANCE] = provenance.describe(project, self._recorded_flags())
        if project is not None:
            for name in self._data_fields():
                values[name] = _relative(getattr(self, name), project)
        write_json(path, values)

    @classmethod
    def _data_fields(cls) -> list[str]:
        return [name for name, field in cls.model_fields.items() if _DATA in field.metadata]

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
        values.pop(PROVENANCE, None)
        project = cls._project()
        for name in cls._data_fields():
            if project is not None and isinstance(values.get(name), str):
                if as_url(values[name]) is not None:
                    continue
                values[name] = str(project / values[name])
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


class _InvalidValuesError(UserError):
    """Values that pydantic rejects; its message names them as keys of a file."""

    def __init__(self, cause: ValidationError) -> None:
        super().__init__(describe_invalid(cause))
        self.cause = cause


def _as_flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    return f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"


def _relative(path: Path, project: Path) -> str:
    """Return ``path``, relative to the project if it is inside; or its address."""
    if (url := as_url(path)) is not None:
        return url
    for place, root in ((path, project), (path.resolve(), project.resolve())):
        if place.is_relative_to(root) and ".." not in place.parts:
            return place.relative_to(root).as_posix()
    return str(path)


def _check_output(name: str, path: Path, project: Path | None, data: Path | None) -> None:
    """Raise UserError for an output folder in which a project or a dataset lies."""
    place = path.resolve()
    root = project and project.resolve()
    reason = ""
    if root and root.is_relative_to(place):
        reason = "is the project" if place == root else f"contains the project {root}"
    elif root and place.is_relative_to(root):
        inner = place.relative_to(root).parts
        if any(part.startswith((".", "__")) for part in inner):
            reason = "is in a hidden folder of the project"
        elif any(place.glob("*.py")):
            reason = "holds source code of the project"
    if not reason and data and data.is_dir() and place.is_relative_to(data.resolve()):
        reason = f"is in the dataset {data}"
    if reason:
        raise UserError(
            f"{name}: {path} {reason}. Expected a folder of its own, such as progress/test."
        )
