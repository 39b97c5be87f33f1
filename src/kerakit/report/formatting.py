"""Text of report pages: labels, numbers, times, and characters that XML can contain."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from kerakit.device.preprocessing import Preprocessing

_UNITS = {"_ms": " (ms)", "_db": " (dB)", "_bytes": " (KiB)", "drop": "drop (pp)"}
_NAMES = {
    "ece": "ECE",
    "sha256": "SHA-256",
    "f1": "F1",
    "iou": "IoU",
    "mae": "MAE",
    "map": "mAP",
    "map50": "mAP@0.5",
    "ap": "AP",
    "ap50": "AP@0.5",
    "oks": "OKS",
    "pck": "PCK",
    "pck@0.05": "PCK@0.05",
    "pck@0.2": "PCK@0.2",
    "r2": "R²",
    "rmse": "RMSE",
    "cpu": "CPU",
    "tpu": "Edge TPU",
    "snr": "SNR",
}
FRACTIONS = (
    *("accuracy", "agreement", "same_prediction", "precision", "recall", "f1", "confidence"),
    *("exact_match", "mean_score", "iou", "map", "map50", "ap50", "ap", "oks"),
    *("map_small", "map_medium", "map_large", "pck", "pck@0.05", "pck@0.2"),
)
"""Ends of the keys of values that are shown in percent."""

_RESIZE = {
    "stretch": "resized without preserving the aspect ratio",
    "letterbox": "resized with its aspect ratio, padded with black",
    "center_crop": "resized with its aspect ratio, cropped at the center",
}

_INVALID = dict.fromkeys(
    (*range(9), 11, 12, *range(14, 32), *range(127, 160), 0xFFFE, 0xFFFF),
    "\N{REPLACEMENT CHARACTER}",
)


def clean_text(text: str) -> str:
    """Replace characters that XML cannot contain, such as control characters, by U+FFFD.

    >>> clean_text("a" + chr(0)) == "a" + chr(0xFFFD)
    True
    """
    # File names that are not UTF-8 contain lone surrogates.
    valid = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return valid.translate(_INVALID)


def format_label(key: str) -> str:
    """Return a key of a report as text, with the unit of ``format_value``.

    >>> format_label("latency_ms"), format_label("worst_class_recall")
    ('latency (ms)', 'worst-class recall')
    """
    key, unit = str(key).replace("worst_class", "worst-class"), ""
    for suffix, text in _UNITS.items():
        if key.endswith(suffix):
            key, unit = key.removesuffix(suffix), text
    return " ".join(_NAMES.get(word, word) for word in key.split("_")) + unit


def format_value(value: Any, key: str = "") -> str:
    """Return a JSON value as text; the last part of its key decides about its format.

    >>> format_value(0.9876, "accuracy"), format_value(0.021, "drop"), format_value(4096, "bytes")
    ('98.76 %', '+2.10', '4')
    """
    if value is None:
        return "–"  # noqa: RUF001 - an empty cell of a table
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _format_number(value, key)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _format_number(value: float, key: str) -> str:
    if key.endswith("drop"):
        return f"{100 * value:+.2f}" if round(100 * value, 2) else "0.00"
    if key.endswith("bytes"):
        return f"{value / 1024:,.0f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 9999 else str(value)
    if key.endswith(FRACTIONS):
        return format_percent(value)
    if key.endswith(("_ms", "_db")):
        return f"{value:.2f}"
    if key == "ece":
        return f"{value:.3f}"
    return f"{value:.4g}"


def format_percent(fraction: float, digits: int = 2) -> str:
    """Return a fraction in percent.

    >>> format_percent(0.98765)
    '98.77 %'
    """
    return f"{100 * fraction:.{digits}f} %"


def format_points(fraction: float) -> str:
    """Return a difference of two fractions in percentage points.

    >>> format_points(0.021)
    '2.10 pp'
    """
    return f"{100 * fraction:.2f} pp"


def format_time(created: str) -> str:
    """Return a time in ISO 8601 as date and time in UTC.

    >>> format_time("2026-11-23T10:00:00+01:00")
    '2026-11-23 09:00 UTC'
    """
    return f"{datetime.fromisoformat(created).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def format_preprocessing(policy: Preprocessing) -> str:
    """Return the steps from an image to the input of a model as a sentence.

    >>> format_preprocessing(Preprocessing("letterbox"))
    'the upright image, resized with its aspect ratio, padded with black.'
    """
    parts = ["the upright image"]
    if policy.crop != (0, 0, 1, 1):
        left, top, right, bottom = (f"{side:g}" for side in policy.crop)
        parts.append(
            f"cropped to {left} to {right} of its width and {top} to {bottom} of its height"
        )
    parts.append(_RESIZE[policy.resize])
    if policy.color == "gray":
        parts.append("gray in three equal channels")
    return f"{', '.join(parts)}."
