"""The settings of this project: where the data is, which models there are, and the flags of train.py and deploy.py."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from tyro.conf import Positional, Suppress

import kerakit
from kerakit.deploy import ALL, DEFAULT_FORMATS, FORMAT_NAMES
from kerakit.training import TRACKER_NAMES
from models import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_v2_b0,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_minimalistic,
    mobilenet_v3_small,
    resnet50_v2,
    small_cnn,
)

# Where the images are: one folder a class, or train/, validation/, test/ with one folder a class inside; or a table (.csv,
# .parquet) with the columns path and label, and split and group if wanted.
DATA_DIR = Path(__file__).parent / "data"

# Where the data gives no split, this share is for training; the rest is halved into validation and test.
TRAIN_RATIO_DEFAULT = 0.8

RANDOM_SEED_DEFAULT = 0

# What `kerakit check` found, if it was run here: images for which this list says yes are left out. It may be edited.
EXCLUSIONS = Path(__file__).parent / "check.csv"

# Where --cache disk keeps decoded images. It may be deleted at any time, and shared with other projects.
CACHE_DIR = Path(__file__).parent / ".cache"

# A new model is one file in models/ and one line here; its key is what --model takes.
MODELS: dict[str, Callable[..., Any]] = {
    "small_cnn": small_cnn.construct,
    "mobilenet_v1": mobilenet_v1.construct,
    "mobilenet_v2": mobilenet_v2.construct,
    "mobilenet_v3_small": mobilenet_v3_small.construct,
    "mobilenet_v3_large": mobilenet_v3_large.construct,
    "mobilenet_v3_minimalistic": mobilenet_v3_minimalistic.construct,
    "efficientnet_lite0": efficientnet_lite0.construct,
    "efficientnet_lite1": efficientnet_lite1.construct,
    "efficientnet_lite2": efficientnet_lite2.construct,
    "efficientnet_v2_b0": efficientnet_v2_b0.construct,
    "resnet50_v2": resnet50_v2.construct,
}


def folder_of_its_own(path: Path) -> Path:
    """Refuse the current folder, which is also what an unset variable of the shell means."""
    if path == Path():
        raise ValueError("expected a folder of its own, such as progress/test, not the current one")
    return path


def absolute(path: Path | None) -> Path | None:
    """Return where ``path`` lies whatever the current folder, so that deploy.py finds what train.py read."""
    return path and path.expanduser().absolute()


AtLeastOne = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class TrainConfig(kerakit.Config):
    """A field is a flag of train.py, its help, its check, and its key in the run's config.json."""

    save_to: Path = Field(description="Folder of the run: config.json, checkpoints, logs, history.")
    num_epochs: int = Field(
        10,
        ge=1,
        description="How often to go through the training images; the head alone takes its own.",
    )
    batch_size: AtLeastOne | Literal["auto"] = Field(
        32,
        description="Images a step; fewer if memory runs out. auto: as many as make the steps faster here.",
    )
    model: str = Field("efficientnet_lite0", description=f"One of {', '.join(MODELS)}.")
    schedule: Literal["auto", "head", "finetune", "scratch"] = Field(
        "auto",
        description="What is trained (phases.py): the head on features of a pretrained backbone, in seconds; then its upper "
        "layers too; or all at once. auto: finetune with ImageNet weights, or from such a run, whose head is "
        "not trained again; else scratch.",
    )
    target: Literal["edgetpu"] | None = Field(
        None, description="Warn before the training of what of the model this device will not take."
    )
    input_size: kerakit.InputSize = Field(
        (224, 224), description="Size that the images are scaled to, in pixels."
    )
    jitter: bool = Field(
        False, description="Augment the training images (get_aug_pipeline in datagen.py)."
    )
    jitter_strength: float = Field(
        1, gt=0, le=3, description="How strongly --jitter augments; 1 is as listed there."
    )
    mixup: float = Field(
        0,
        ge=0,
        description="Blend pairs of images; 0.2 is usual, larger blends more evenly, 0 not at all.",
    )
    cutmix: float = Field(
        0, ge=0, description="Paste a part of another image; 1 is usual, 0 not at all."
    )
    drop_last: bool = Field(
        False, description="Leave a last training batch that is smaller than --batch_size away."
    )
    overwrite: bool = Field(False, description="Replace the run that --save_to holds already.")
    weights: Literal["auto", "imagenet", "none"] = Field(
        "auto",
        description="What to start from: ImageNet where it can be had; ImageNet or stop; nothing.",
    )
    from_ckpt: Path | None = Field(
        None, description="Start from a run's best checkpoint, or from a .weights.h5 file."
    )
    learning_rate: Positive | Literal["auto"] = Field(
        1e-3,
        description="Largest step size of AdamW. auto: tried out before each phase (kerakit.training.tune).",
    )
    ema: float = Field(
        0,
        ge=0,
        lt=1,
        description="Average the weights over the steps; 0.95 is usual, 0 not at all.",
    )
    class_weights: bool = Field(
        False, description="Count the images of rare classes more, as if all classes had as many."
    )
    mixed_precision: bool = Field(
        False, description="Compute in 16 bits where that does; only faster on a GPU."
    )
    loss: kerakit.List.Text = Field(
        ("sparse_categorical_crossentropy",),
        description="A loss of loss.py or of Keras, by name; one for each output.",
    )
    label_smoothing: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of each target that goes to all classes alike: the model doubts more, and errs less.",
    )
    loss_weights: kerakit.List.Float | None = Field(
        None, description="Weight of each output's loss."
    )
    data_dir: Path = Field(DATA_DIR, description="Folder or table of the images.")
    cache: Literal["none", "ram", "disk"] = Field(
        "none",
        description="Keep decoded images for later epochs; on disk for later runs too (CACHE_DIR in config.py).",
    )
    cache_limit: float | None = Field(
        None,
        gt=0,
        description="Gigabytes that the cache may take; default: half of what is free. As many images as fit are kept.",
    )
    skip_unreadable: bool = Field(
        False,
        description="Put another image in the place of one that cannot be read, up to 1 % of them, and name it at the end.",
    )
    track: kerakit.List.Text | None = Field(
        None,
        description=f"Log to these, too, beside TensorBoard: {', '.join(TRACKER_NAMES)}. Their own environment variables say "
        "where to (MLFLOW_TRACKING_URI, WANDB_MODE).",
    )
    trials: int = Field(
        0,
        ge=0,
        description="Train so many times, with other flags each time (search.py), each in a folder inside --save_to.",
    )
    seed: int = Field(
        RANDOM_SEED_DEFAULT,
        ge=0,
        lt=2**32,
        description="Of the split, the order, and the augmentation.",
    )

    # What train.py found out, for deploy.py: not flags.
    class_names: Suppress[tuple[str, ...]] = Field(
        (), description="In the order of the model's outputs."
    )
    phases: Suppress[tuple[str, ...]] = Field((), description="What --schedule came to.")

    _own_folder = field_validator("save_to")(folder_of_its_own)
    _where_it_is = field_validator("data_dir")(absolute)

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        return known("model", value, MODELS)

    @field_validator("input_size")
    @classmethod
    def _positive_size(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 1:
            raise ValueError(
                f"expected a width and a height of at least 1, got {value[0]},{value[1]}"
            )
        return value

    @field_validator("track")
    @classmethod
    def _known_trackers(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value and tuple(
            dict.fromkeys(known("tracker", name, TRACKER_NAMES) for name in value)
        )

    @model_validator(mode="after")
    def _one_origin(self) -> TrainConfig:
        if self.from_ckpt is not None and self.weights == "imagenet":
            raise ValueError(
                "--from_ckpt and --weights imagenet exclude each other; leave one away"
            )
        return self

    @model_validator(mode="after")
    def _strength_of_something(self) -> TrainConfig:
        if self.jitter_strength != 1 and not self.jitter:
            raise ValueError("--jitter_strength changes nothing without --jitter; give both")
        return self


class DeployConfig(kerakit.Config):
    """The flags of deploy.py."""

    read_from: Path = Field(description="Folder of a run: the --save_to of train.py.")
    save_to: Path = Field(
        description="Folder for the models, labels.txt, report.json and report.html."
    )
    formats: kerakit.List.Text | None = Field(
        None,
        description=f"Only these, and none left out: {', '.join(FORMAT_NAMES)}; or {ALL}: what can be made here of all. "
        f"Default: what can be made here of {', '.join(DEFAULT_FORMATS)}.",
    )
    max_drop: float = Field(
        0.01,
        ge=0,
        le=1,
        description="The accuracy gate: a file that loses more of the held-out images ends in exit code 1.",
    )
    num_calibration: int = Field(
        200, ge=1, description="Training images that ranges of int8 and int16 are measured on."
    )
    edgetpu_compiler: Path | None = Field(
        None, description="Google's edgetpu_compiler; default: the one on the PATH."
    )
    edgetpu_runtime: int | None = Field(
        None,
        ge=10,
        le=14,
        description="Oldest runtime of the Edge TPU to compile for, 10 to 14; default: the compiler's, 14.",
    )
    edgetpu_compiled: Path | None = Field(
        None,
        description="What the compiler made of model.tflite elsewhere: verified and delivered with it.",
    )
    data_dir: Path | None = Field(
        None, description="Folder or table of the images; default: where the run found them."
    )
    overwrite: bool = Field(False, description="Replace what was deployed to --save_to before.")

    _own_folder = field_validator("save_to")(folder_of_its_own)
    _where_it_is = field_validator("data_dir")(absolute)

    @field_validator("edgetpu_compiler")
    @classmethod
    def _a_program(cls, value: Path | None) -> Path | None:
        found = value and (shutil.which(value.absolute()) or shutil.which(value))
        if value and not found:
            raise ValueError(f"{value} is no program that can be run")
        return Path(found) if found else None

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value and tuple(known("format", name, (*FORMAT_NAMES, ALL)) for name in value)


class EvaluateConfig(kerakit.Config):
    """The flags of evaluate.py."""

    read_from: Path = Field(description="Folder of a run: the --save_to of train.py.")
    data_dir: Path | None = Field(
        None, description="Folder or table of the images; default: where the run found them."
    )

    _where_it_is = field_validator("data_dir")(absolute)


class PredictConfig(kerakit.Config):
    """The flags of predict.py."""

    read_from: Path = Field(description="Folder of a run: the --save_to of train.py.")
    images: Positional[tuple[Path, ...]] = Field(description="Images, and folders of them.")
    top: int = Field(1, ge=1, description="How many labels to give for each image.")
    as_json: bool = Field(False, description="JSON instead of CSV.")


def known(what: str, value: str, names: Any) -> str:
    """Return ``value`` if it is among ``names``; else raise ValueError with the nearest one."""
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, n=1)
    raise ValueError(
        f"unknown {what} {value!r}{f', did you mean {near[0]!r}?' if near else '.'} There is {', '.join(names)}"
    )


def save(config: TrainConfig, run: kerakit.Run) -> None:
    """Write ``config`` into a run."""
    config.save(run.config)


def read(run: kerakit.Run | Path | str) -> TrainConfig:
    """Read the configuration of a run, or of the folder of one."""
    return TrainConfig.read(
        run.config if isinstance(run, kerakit.Run) else kerakit.Run.open(run).config
    )
