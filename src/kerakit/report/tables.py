"""Report sections with metrics per class or quantity, of one model or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kerakit.report.formatting import format_label, format_value
from kerakit.report.page import Block, Note, Section, Table


def per_class_section(
    columns: Mapping[str, Mapping[str, Sequence[Any]]], compared: Sequence[str], note: str = ""
) -> Section:
    """Return a section with one row per class.

    Args:
        columns: for each model, by its name, the columns of ``Task.details``: the first has the
            names of the classes.
        compared: names of the columns that are shown for each of several models.
        note: text below the table; optional.
    """
    first = next(iter(columns.values()))
    kind, names = next(iter(first.items()))
    if len(columns) == 1:
        shown = {format_label(key): (key, first[key]) for key in list(first)[1:]}
    else:
        shown = {"images": ("images", first["images"])} if "images" in first else {}
        shown |= {
            f"{format_label(key)}, {model}": (key, table[key])
            for key in compared
            for model, table in columns.items()
        }
    rows = [
        [str(name), *(format_value(values[i], key) for key, values in shown.values())]
        for i, name in enumerate(names)
    ]
    blocks: list[Block] = [Table([kind, *shown], rows, list(shown))]
    if note:
        blocks.append(Note(note))
    return Section(f"Metrics per {kind}", blocks)
