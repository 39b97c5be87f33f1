"""Evaluation of a trained model on held-out images: table, plots, evaluation.json, report page."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from kerakit import nested, world
from kerakit.console import print_table
from kerakit.data.generator import BatchGenerator
from kerakit.data.split import MODE_NAMES
from kerakit.files import write_json
from kerakit.inference import keras_predict_fn, predict_batches
from kerakit.report import charts
from kerakit.report.formatting import FRACTIONS, format_value
from kerakit.report.page import Gallery, Note, Sample, Section
from kerakit.report.plots import image_grid, save_image
from kerakit.run import Run
from kerakit.tasks.calibration import calibrate_task
from kerakit.trained_weights import load_weights
from kerakit.training.page import write_page

if TYPE_CHECKING:
    import keras

    from kerakit.tasks import Task

MAX_MISTAKES = 32
"""Number of the most confident mistakes that are shown."""


def evaluate(
    model: keras.Model, task: Task, held_out: BatchGenerator, run: Run
) -> dict[str, float]:
    """Evaluate ``model`` and write evaluation.json, plots and the report page into the run folder.

    Args:
        model: a trained model.
        task: decodes and scores its outputs.
        held_out: batches of images that were not used for training.
        run: the run folder.

    Returns:
        The metrics, the main one first.

    >>> import keras
    >>> from kerakit.tasks import Classification
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> evaluate(model, Classification(["cat", "dog"]), held_out=[], run=Run("progress/test"))
    Traceback (most recent call last):
    kerakit.errors.UserError: the model has 3 classes, the dataset 2.
    """
    task.check_model(model)
    model = task.inference_model(model)
    predict = keras_predict_fn(model)
    calibrate_task(task, predict, held_out)
    # Where there are several processes, each predicts a part; process 0 scores and writes.
    outputs, annotations = predict_batches(predict, held_out, to_all=False)
    write = partial(_write, task, held_out, run, outputs, annotations)
    metrics: dict[str, float] = json.loads(world.current.call_on_main(write))
    return metrics


def _write(task: Task, held_out: BatchGenerator, run: Run, outputs: Any, annotations: Any) -> str:
    """Score outputs, print and write the result; return the metrics as JSON."""
    count = nested.length(outputs)
    task.check_outputs(outputs)
    predictions = task.decode(outputs)
    metrics = task.score(predictions, annotations)
    details = task.details(predictions, annotations)
    write_json(
        run.evaluation,
        {
            "task": task.name,
            "split": held_out.mode,
            "images": count,
            "metrics": metrics,
            **details,
        },
    )
    run.plots.mkdir(exist_ok=True)
    for name, figure in task.plot(predictions, annotations).items():
        charts.save_png(figure, run.plots / f"{name}.png")
    sections = [
        *task.report({"Keras": predictions}, annotations),
        *_show_mistakes(run, task, held_out, predictions, annotations),
    ]
    write_page(run, sections)
    _print(metrics, details, f"{count:,} {MODE_NAMES[held_out.mode]} images")
    print(f"report: {run.page} (data: {run.evaluation})")
    return json.dumps({name: float(value) for name, value in metrics.items()})


def choose_thresholds(model: keras.Model, task: Task, val: BatchGenerator, run: Run) -> bool:
    """Let ``task`` choose its thresholds on validation images, with the best checkpoint of a run.

    Returns:
        Whether it has thresholds, so that its ``spec`` has changed.

    >>> import keras
    >>> from kerakit.tasks import Classification
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> choose_thresholds(model, Classification(["cat", "dog"]), None, Run("progress/test"))
    False
    """
    if not task.has_thresholds():
        return False
    load_weights(model, run.path)
    calibrate_task(task, keras_predict_fn(task.inference_model(model)), val)
    return True


def _show_mistakes(
    run: Run, task: Task, held_out: BatchGenerator, predictions: Any, annotations: Any
) -> list[Section]:
    """Draw the most confident mistakes into plots/mistakes.png, and return their section."""
    path = run.plots / "mistakes.png"
    wrong = task.mistakes(predictions, annotations)[:MAX_MISTAKES].tolist()
    if not wrong:
        path.unlink(missing_ok=True)
        return []
    targets = [nested.take(annotations, i) for i in wrong]
    images = [
        task.overlay(held_out.sample(i)[0], predictions[i], target)
        for i, target in zip(wrong, targets, strict=True)
    ]
    labels = [task.format_annotation(target) for target in targets]
    predicted = [task.format_prediction(predictions[i]) for i in wrong]
    captions = [f"{one}, true: {label}" for one, label in zip(predicted, labels, strict=True)]
    save_image(image_grid(images, captions), path)
    samples = [
        Sample(image, label, [f"predicted: {one}"], held_out.sample_key(0, i))
        for i, image, label, one in zip(wrong, images, labels, predicted, strict=True)
    ]
    notes = [Note(task.overlay_note)] if task.overlay_note else []
    return [Section(task.mistakes_title, [*notes, Gallery(samples)])]


def _print(metrics: dict[str, float], details: dict[str, Any], images: str) -> None:
    """Print the metrics, and the table of the classes where there is one."""
    values = ", ".join(f"{name}: {value:.4f}" for name, value in metrics.items())
    print(f"Evaluated on {images}. {values}")
    for name, of_output in details.get("outputs", {"": details}).items():
        if columns := of_output.get("classes"):
            print(f"{name}:") if name else None
            _print_classes(columns)


def _print_classes(columns: dict[str, list[Any]]) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    cells = [[_cell(key, value, row) for key, value in row.items()] for row in rows]
    print_table(list(columns), cells, left=[next(iter(columns))])


def _cell(key: str, value: Any, row: dict[str, Any]) -> str:
    """Return a cell of the table of the classes: empty for a metric of a class without images."""
    if value is None or (isinstance(value, float) and row.get("images") == 0):
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1%}" if key.endswith(FRACTIONS) else format_value(value, key)
