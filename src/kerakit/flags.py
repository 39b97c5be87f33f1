"""Command lines: flags that are unknown, missing or without a value, as errors of one line.

tyro assigns the words to flags and prints ``--help``; pydantic converts and validates the values,
so that each error names the flag, its value and what was expected.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import tyro
from pydantic import ValidationError
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from kerakit.errors import UserError, printable

REGISTRY = tyro.constructors.ConstructorRegistry()
"""The constructors of tyro that pass the values of flags on as text."""


@REGISTRY.primitive_rule
def _pass_text(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Return the constructor of a flag with one value; None for others, such as booleans."""
    metavar = _metavar(info.type)
    return metavar and text_value(metavar)  # type: ignore[return-value] # None or a constructor


def text_value(metavar: str) -> PrimitiveConstructorSpec[Any]:
    """Return the constructor of a flag whose value stays text until pydantic validates it."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: words[0],
        is_instance=lambda _: True,
        str_from_instance=lambda value: [
            ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        ],
    )


def _metavar(annotation: Any) -> str | None:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        specs = [one for one in args[1:] if isinstance(one, PrimitiveConstructorSpec)]
        return specs[0].metavar if specs else _metavar(args[0])
    if origin is Literal:
        return f"{{{','.join(map(str, args))}}}"
    if origin in (Union, types.UnionType):
        parts = [_metavar(one) for one in args if one is not type(None)]
        return "|".join(part for part in parts if part) if all(parts) else None
    if annotation is bool or not isinstance(annotation, type):
        return None
    return {"int": "INT", "float": "FLOAT", "str": "STR", "Path": "PATH"}.get(annotation.__name__)


@dataclass(frozen=True)
class BareFlag:
    """Annotation of a flag that may be given without a value.

    Attributes:
        value: the value that it then has.
    """

    value: str


@dataclass(frozen=True)
class Flag:
    """A flag, or a positional argument, of a script or command.

    Attributes:
        name: without dashes, with underscores.
        annotation: type of its values.
        is_required: whether it has no default.
        description: as in ``--help``.
    """

    name: str
    annotation: Any
    is_required: bool
    description: str = ""

    def __str__(self) -> str:
        """Return the flag with its kind of values and its description."""
        name = self.name if self.is_positional else f"--{self.name}"
        described = f" ({self.description.rstrip('.')})" if self.description else ""
        return f"{name} {self.expected}{described}"

    @property
    def is_switch(self) -> bool:
        """Return whether it takes no value: ``--jitter``, ``--no_jitter``."""
        return _strip(self.annotation) is bool

    @property
    def is_positional(self) -> bool:
        """Return whether its values are given without its name."""
        return _POSITIONAL in get_args(self.annotation)

    @property
    def bare_value(self) -> str | None:
        """Return its value where it is given without one; None if it needs a value."""
        bare = (one for one in get_args(self.annotation) if isinstance(one, BareFlag))
        return next((one.value for one in bare), None)

    @property
    def is_suppressed(self) -> bool:
        """Return whether it is recorded, but not a flag."""
        return _SUPPRESSED in get_args(self.annotation)

    @property
    def takes_many(self) -> bool:
        """Return whether a positional argument takes several values."""
        return get_origin(_strip(self.annotation)) is tuple

    @property
    def expected(self) -> str:
        """Return the kind of its values, as in ``--help``."""
        metavar = _metavar(self.annotation)
        return metavar or ("PATH ..." if self.takes_many else "a value")


def _strip(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


_POSITIONAL = get_args(tyro.conf.Positional[int])[1]
_SUPPRESSED = get_args(tyro.conf.Suppress[int])[1]


def arrange_words(words: Sequence[str], flags: Sequence[Flag], program: str) -> list[str]:
    """Return the words with flags first, for tyro, which assigns each of them to one of ``flags``.

    Args:
        words: of the command line, after the program.
        flags: of the program.
        program: name for the advice, such as ``train.py``.

    Raises:
        UserError: a flag that is unknown, missing, without a value, or a stray word.
    """
    if {"-h", "--help"} & set(words) or any(word.startswith("--tyro") for word in words):
        return list(words)
    named = {flag.name: flag for flag in flags if not flag.is_positional}
    switches = {
        f"{prefix}{name}": (name, f"--no_{name}" if prefix else f"--{name}")
        for name, flag in named.items()
        if flag.is_switch
        for prefix in ("", "no_", "no")
    }
    positional = [flag for flag in flags if flag.is_positional]
    place, last = 0, ""  # last: the switch before the current word
    only_values = False  # after "--"
    given: dict[str, str] = {}  # of a repeated flag, the last value
    values: list[str] = []
    while place < len(words):
        word = words[place]
        place += 1
        if word == "--" and not only_values:
            only_values = True
            continue
        if only_values or not _is_flag(word):
            if len(values) >= len(positional) and not (positional and positional[-1].takes_many):
                _reject_word(word, last, program)
            values.append(word)
            last = ""
            continue
        spelled, equals, value = word.partition("=")
        name = spelled.lstrip("-").replace("-", "_")
        last = spelled if name in switches else ""
        if name in switches and not equals:
            given[switches[name][0]] = switches[name][1]
            continue
        if name in switches:
            raise UserError(f"{spelled} takes no value, got {printable(value)!r}. Omit the value.")
        if name not in named or not spelled.startswith("--"):
            _reject_flag(spelled, [*named, *switches], program)
        if not equals:
            bare = named[name].bare_value
            is_bare = place == len(words) or _is_flag(words[place])
            if is_bare and bare is not None:
                given[name] = f"--{name}={bare}"
                continue
            if is_bare:
                raise UserError(f"{spelled} has no value; expected {named[name].expected}.")
            value = words[place]
            place += 1
        if not value:
            expected = named[name].expected
            raise UserError(f"{spelled} is empty; expected {expected}. Is a shell variable unset?")
        given[name] = f"--{name}={_expand_user(named[name], value)}"
    missing = [flag for flag in named.values() if flag.is_required and flag.name not in given]
    missing += [flag for flag in positional if flag.is_required][len(values) :]
    if missing:
        listed = "; ".join(map(str, missing))
        raise UserError(f"missing: {listed}. See {program} --help.")
    if "" in values:
        raise UserError("an argument is empty. Is a shell variable unset?")
    values = [
        _expand_user(positional[min(i, len(positional) - 1)], v) for i, v in enumerate(values)
    ]
    return [*given.values(), *(["--", *values] if values else [])]


def _expand_user(flag: Flag, value: str) -> str:
    """Return a path with the home folder for ~, which no shell expands in ``--flag=~/a``."""
    if not (flag.expected.startswith("PATH") and value.startswith("~")) or os.path.lexists(value):
        return value
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        name = flag.name if flag.is_positional else f"--{flag.name}"
        user = printable(value[1:].partition("/")[0])
        raise UserError(f"{name}: the user {user!r} of {printable(value)} does not exist.")
    return expanded


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.match(r"-\.?\d|-(inf|nan|$)", word)


def _reject_word(word: str, switch: str, program: str) -> NoReturn:
    if switch:
        raise UserError(f"{switch} takes no value, got {printable(word)!r}. Omit the value.")
    raise UserError(f"unexpected argument {printable(word)!r}. See {program} --help.")


def _reject_flag(spelled: str, names: Sequence[str], program: str) -> NoReturn:
    name = spelled.lstrip("-").replace("-", "_")
    hint = suggest(name, names, "--")
    raise UserError(f"unknown flag {printable(spelled)}{hint} See {program} --help.")


def suggest(value: str, names: Iterable[str], prefix: str = "") -> str:
    """Return the end of a sentence: the closest of ``names``, if one is close.

    >>> suggest("in8", ["int8", "float16"])
    ", did you mean 'int8'?"
    """
    close = difflib.get_close_matches(value, list(names), n=1)
    if not close:
        return "."
    return f", did you mean {prefix}{close[0]}?" if prefix else f", did you mean {close[0]!r}?"


def describe_invalid(error: ValidationError, prefix: str = "") -> str:
    """Return pydantic's errors without types, links and class names, one part per value.

    Args:
        error: of a class or function whose fields are the flags.
        prefix: of the names: "--" for flags, "" for keys of a file.
    """
    by_name: dict[str, list[Any]] = {}
    for item in error.errors():
        by_name.setdefault(str(item["loc"][0])[:40] if item["loc"] else "", []).append(item)
    parts = [printable(_describe(name, by_name[name], prefix)) for name in by_name]
    others = len(parts) - _MAX_DESCRIBED
    return "; ".join([*parts[:_MAX_DESCRIBED], *([f"and {others} more"] if others > 0 else [])])


_MAX_DESCRIBED = 5


def invalid_flags(error: ValidationError) -> UserError:
    """Return the error for invalid values of flags."""
    message = describe_invalid(error, "--")
    return UserError(message if message.endswith("?") else f"{message}.")


def _describe(name: str, items: Sequence[Any], prefix: str) -> str:
    first = items[0]
    if first["type"] == "extra_forbidden":
        return f"unknown key {name!r}. Was it written by another version? Remove it, or train again"
    if first["type"] == "missing":
        return f"{prefix}{name} is missing"
    text = _describe_value(items)
    return f"{prefix}{name}: {text}" if name else text


def _describe_value(items: Sequence[Any]) -> str:
    """Return what was expected; the alternatives of a union are joined by "or"."""
    first = items[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    # For a union, pydantic reports each alternative.
    expected = dict.fromkeys(map(_describe_limit, items))
    value = first["input"]
    choices = [choice for text in expected for choice in re.findall(r"'(\w+)'", text)]
    hint = suggest(str(value), choices).rstrip(".")
    return f"expected {' or '.join(expected)}, got {reprlib.repr(value)}{hint}"


def _describe_limit(item: Any) -> str:
    limit = _LIMITS.get(item["type"])
    if limit is not None:
        # 1.0, the limit of a float, reads as 1.
        bounds = {key: int(one) if one == int(one) else one for key, one in _numbers(item).items()}
        return limit.format(**bounds)
    return re.sub("^Input should be (a valid )?|, unable to parse .*", "", item["msg"])


def _numbers(item: Any) -> dict[str, Any]:
    context = item.get("ctx", {})
    return {key: one for key, one in context.items() if isinstance(one, int | float)}


_LIMITS = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
"""The terms for pydantic's types of errors."""
