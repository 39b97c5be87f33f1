"""The report page of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kerakit.checkpoint import Checkpoint
from kerakit.data.split import MODES
from kerakit.errors import UserError, first_line
from kerakit.files import RESTORE, read_json, write_text
from kerakit.report.charts import plot_curves
from kerakit.report.formatting import format_label, format_time, format_value
from kerakit.report.page import (
    Badge,
    Bar,
    Block,
    Chart,
    Command,
    Heading,
    ImageBlock,
    Note,
    Page,
    Paragraph,
    Section,
    SideBySide,
    Table,
    Tile,
    Tiles,
    environment_section,
    make_block,
    render,
)
from kerakit.report.plots import ROW_HEIGHT
from kerakit.run import Run
from kerakit.script import deploy_command, evaluate_command

BATCH_ROWS = 4
"""Number of rows of the plot of a batch that are shown."""

_RECORDED = ("class_names", "split", "architecture")
"""Entries of config.json beside the settings: they have sections of their own, or are hashes."""

_STATUS = {
    "completed": Badge("completed", "good"),
    "interrupted": Badge("interrupted", "idle"),
    "failed": Badge("failed", "bad"),
}

History = Sequence[Mapping[str, float]]


def write_page(run: Run, sections: Sequence[Section] = ()) -> None:
    """Write the page of a run from the files in its folder.

    Args:
        run: the run.
        sections: sections of its evaluation.

    Raises:
        UserError: a file of the run is damaged.
    """
    config, report, evaluation = (
        read_json(path, dict) if path.exists() else {}
        for path in (run.config, run.report, run.evaluation)
    )
    history = run.read_history() if run.history.exists() else []
    best = next(iter(run.list_checkpoints()), None)
    try:
        text = _render(run, config, report, evaluation, history, best, sections).encode()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Values of another type, or missing ones, in files that are valid JSON.
        reason = f"{type(error).__name__}: {first_line(error)}"
        files = ", ".join(
            path.name
            for path in (run.config, run.report, run.evaluation, run.history)
            if path.exists()
        )
        raise UserError(
            f"the report page of {run.path} cannot be written from {files}: {reason}. {RESTORE}"
        ) from error
    write_text(run.page, text.decode())


def _render(
    run: Run,
    config: Mapping[str, Any],
    report: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    history: History,
    best: Checkpoint | None,
    sections: Sequence[Section],
) -> str:
    settings = {key: value for key, value in config.items() if key not in _RECORDED}
    content = [
        _tiles(history, best, report, evaluation),
        _curves(history, best, config, report),
        *sections,
        _batches(run.plots, config),
        _data(report),
        Section("Next", _next(run, evaluation)),
        Section("Configuration", [make_block(settings)]),
        environment_section(report) if report else None,
    ]
    page = Page(
        f"{config.get('model', 'model')}: training",
        _lines(run, config, report),
        [part for part in content if part is not None],
    )
    return render(page)


def _lines(run: Run, config: Mapping[str, Any], report: Mapping[str, Any]) -> list[Paragraph]:
    phases = ", ".join(config.get("phases", []))
    lines = [Paragraph(f"{run.path}; weights: {config.get('weights')}; phases: {phases}")]
    if report:
        time = f"{format_time(report['created'])}, after {_format_duration(report['seconds'])}"
        lines.append(Paragraph(time, _STATUS[report["status"]]))
    return lines


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:g} s"


def _tiles(
    history: History,
    best: Checkpoint | None,
    report: Mapping[str, Any],
    evaluation: Mapping[str, Any],
) -> Tiles:
    tiles = []
    if best is not None:
        monitor = f", by {report['monitor']}" if report.get("monitor") else ""
        tiles.append(Tile("best epoch", str(best.epoch), f"of {len(history)}{monitor}"))
        row: Mapping[str, float] = next((row for row in history if row["epoch"] == best.epoch), {})
        for name in [name for name in row if name.startswith("val_")][:3]:
            metric = name.removeprefix("val_")
            note = f"training: {format_value(row[metric], metric)}" if metric in row else ""
            label = f"{format_label(metric)}, validation"
            tiles.append(Tile(label, format_value(row[name], metric), note))
    for metric, value in evaluation.get("metrics", {}).items():
        split = {"val": "validation"}.get(evaluation["split"], evaluation["split"])
        label = f"{format_label(metric)}, {split}"
        count = f"{evaluation['images']:,} images"
        if label not in (tile.label for tile in tiles):
            tiles.append(Tile(label, format_value(value, metric), count))
    if images := report.get("images"):
        others = [f"{n:,} {mode}" for mode, n in images.items() if mode != "train" and n]
        tiles.append(Tile("training images", f"{images['train']:,}", ", ".join(others)))
    return Tiles(tiles)


def _curves(
    history: History,
    best: Checkpoint | None,
    config: Mapping[str, Any],
    report: Mapping[str, Any],
) -> Section | None:
    """Plot each metric, with marks at the best epoch and at the beginnings of several phases."""
    starts = report.get("phase_starts", [])
    marks = [(float(best.epoch), "best")] if best else []
    if len(starts) > 1:
        phases = zip(starts, config.get("phases", []), strict=False)
        marks += [(float(epoch), str(phase)) for epoch, phase in phases]
    names = dict.fromkeys(
        name.removeprefix("val_") for row in history for name in row if name != "epoch"
    )
    charts: list[tuple[str, Block]] = []
    for name in names:
        keys = ("epoch", name, f"val_{name}")
        rows = [{key: row[key] for key in keys if key in row} for row in history]
        if any(math.isfinite(row[key]) for row in rows for key in keys[1:] if key in row):
            charts.append(("", Chart(plot_curves(rows, marks), f"{name} over epochs")))
    return Section("Curves", [SideBySide(charts)]) if charts else None


def _batches(plots: Path, config: Mapping[str, Any]) -> Section | None:
    applied = [name for name in ("jitter", "mixup", "cutmix") if config.get(name)]
    training = f"training, with --{' and --'.join(applied)}" if applied else "training"
    blocks: list[Block] = []
    for name, title in (("train_batch", training), ("val_batch", "validation")):
        if (path := plots / f"{name}.png").exists():
            with Image.open(path) as image:
                height = min(image.height, BATCH_ROWS * ROW_HEIGHT)
                rows = image.crop((0, 0, image.width, height))
            blocks += [Heading(title), ImageBlock(rows, title, min_width=720)]
    return Section("First batches", blocks) if blocks else None


def _data(report: Mapping[str, Any]) -> Section | None:
    classes = report.get("classes")
    if not classes:
        return None
    modes = [mode for mode in MODES if any(row[mode] for row in classes)]
    largest = max(row["train"] for row in classes)
    rows = [
        [row["class"], *(f"{row[mode]:,}" for mode in modes), Bar(row["train"] / largest)]
        for row in classes
    ]
    return Section(
        f"{len(classes):,} classes", [Table(["class", *modes, "training images"], rows, modes)]
    )


def _next(run: Run, evaluation: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    if not evaluation:
        blocks += [
            Note("Metrics, plots and mistakes on held-out images:"),
            Command(evaluate_command(run)),
        ]
    return [*blocks, Note("Export and verification:"), Command(deploy_command(run))]
