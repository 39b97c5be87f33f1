"""Configuration: data, models, and the flags of the scripts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from tyro.conf import Positional, Suppress

import kerakit
from kerakit.data import Preprocessing
from kerakit.deploy import ALL_FORMATS, DEFAULT_FORMATS, FORMAT_NAMES
from kerakit.models import ModelFiles
from kerakit.training import TRACKER_NAMES

# The dataset. Image folder with one subfolder per class, optionally inside train/, validation/ and
# test/; table (.csv, .parquet) with the columns path and label, and optionally split and group; or
# images with the annotations of other tools. The class in reader.py reads it.
DATA_DIR = Path(__file__).parent / "data"

# Fraction of training images if the data has no split; the rest is divided equally into validation
# and test.
TRAIN_RATIO_DEFAULT = 0.8

RANDOM_SEED_DEFAULT = 0

# Defaults of flags of train.py that depend on the task, and on the size of the sample images.
INPUT_SIZE_DEFAULT = (224, 224)
NUM_EPOCHS_DEFAULT = 10
BATCH_SIZE_DEFAULT = 32
LEARNING_RATE_DEFAULT = 1e-3
JITTER_DEFAULT = False
EMA_DEFAULT = 0.0

# Crop, resize policy and color of every image: in training, export and on devices. CHANGE: for
# example, Preprocessing(resize="letterbox"); recorded in each run.
PREPROCESSING = Preprocessing()

# The list that `kerakit check` writes here: images with "yes" in its column "exclude" are excluded.
EXCLUSIONS = Path(__file__).parent / "check.csv"

# Cached images and features. Safe to delete at any time, and to share with other projects.
CACHE_DIR = Path(__file__).parent / ".cache"

# Models by the name that --model takes. Every file in models/ is included without an entry here.
# Add others by name: MODELS["mine"] = construct
MODELS = ModelFiles(Path(__file__).parent / "models")


def _check_subfolder(path: Path) -> Path:
    """Reject the current folder, to which an unset shell variable expands, too."""
    if path == Path():
        raise ValueError("expected a folder such as progress/test, not the current folder")
    return path


AtLeastOne = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class TrainConfig(kerakit.Config):
    """Flags of train.py, and the keys of a run's config.json."""

    save_to: kerakit.OutputPath = Field(
        description="Run folder: config.json, checkpoints, logs, history, report."
    )
    num_epochs: int = Field(
        NUM_EPOCHS_DEFAULT,
        ge=1,
        description="Number of epochs of fine-tuning, or of training from scratch.",
    )
    head_epochs: int | None = Field(
        None,
        ge=1,
        description="Number of epochs of the head phase; default: 2 x num_epochs, at most 20.",
    )
    batch_size: AtLeastOne | Literal["auto"] = Field(
        BATCH_SIZE_DEFAULT,
        description="Images per step. auto: the smallest batch size with near-peak throughput.",
    )
    model: str = Field("efficientnet_lite0", description=f"One of {', '.join(MODELS)}.")
    strategy: Literal["auto", "head", "finetune", "scratch"] = Field(
        "auto",
        description="Phases. head: the head, on cached features of a frozen pretrained backbone; "
        "finetune: head, then upper layers (detection, regression: at once); scratch: all layers. "
        "auto: finetune with pretrained weights, otherwise scratch.",
    )
    target: Literal["edgetpu"] | None = Field(
        None, description="Before training, warn about operators that this device does not support."
    )
    input_size: kerakit.InputSize = Field(INPUT_SIZE_DEFAULT, description="Image size in pixels.")
    jitter: bool = Field(
        JITTER_DEFAULT, description="Data augmentation (get_aug_pipeline in datagen.py)."
    )
    jitter_strength: float = Field(
        1, gt=0, le=3, description="Strength of --jitter; 1 is as defined in datagen.py."
    )
    mixup: float = Field(0, ge=0, description="MixUp: alpha of the Beta distribution; 0: off.")
    cutmix: float = Field(0, ge=0, description="CutMix: alpha of the Beta distribution; 0: off.")
    mosaic: float = Field(
        0, ge=0, le=1, description="Fraction of images that become mosaics of four (detection)."
    )
    drop_last: bool = Field(False, description="Drop the last training batch if it is incomplete.")
    overwrite: bool = Field(False, description="Replace an existing run in --save_to.")
    resume: kerakit.Resume = Field(
        "no", description="Continue the run in --save_to. auto: continue it, or start one."
    )
    allow_changes: bool = Field(
        False, description="Let --resume continue with other flags than the run was started with."
    )
    save_minutes: float = Field(
        5, ge=0, description="Minutes between saves of the training state; 0: after epochs only."
    )
    weights: Literal["auto", "imagenet", "none"] = Field(
        "auto",
        description="Initial weights. auto: ImageNet if available, else random; imagenet: "
        "ImageNet or an error; none: random.",
    )
    from_ckpt: Path | None = Field(
        None, description="Initial weights from a run's best checkpoint, or a .weights.h5 file."
    )
    learning_rate: Positive | Literal["auto"] = Field(
        LEARNING_RATE_DEFAULT,
        description="Peak learning rate of AdamW. auto: range test before each phase.",
    )
    ema: float = Field(
        EMA_DEFAULT,
        ge=0,
        lt=1,
        description="Momentum of the exponential moving average of weights; 0: off.",
    )
    class_weights: bool = Field(False, description="Balance the classes in the loss.")
    mixed_precision: bool = Field(
        False, description="Mixed precision (float16); faster on GPUs only."
    )
    loss: kerakit.List.Text = Field(
        ("auto",),
        description="Name of a loss in loss.py or keras.losses; one per output. auto: that of the "
        "task.",
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing.")
    loss_weights: kerakit.List.Float | None = Field(
        None, description="Loss weights, one per output."
    )
    data_dir: kerakit.DataPath = Field(
        DATA_DIR, description="Dataset: image folder, table or annotations."
    )
    cache: Literal["none", "ram", "disk"] = Field(
        "none", description="Cache of decoded images; disk: reused by later runs (CACHE_DIR)."
    )
    cache_limit: float | None = Field(
        None, gt=0, description="Cache size limit in GB; default: half of the free space."
    )
    skip_unreadable: bool = Field(
        False, description="Replace unreadable images with others, up to 1 % of a split."
    )
    track: kerakit.List.Text | None = Field(
        None,
        description=f"Experiment trackers in addition to TensorBoard: {', '.join(TRACKER_NAMES)}. "
        "Configured by their environment variables (MLFLOW_TRACKING_URI, WANDB_MODE).",
    )
    trials: int = Field(
        0, ge=0, description="Number of trials of a hyperparameter search (search.py); 0: off."
    )
    seed: int = Field(
        RANDOM_SEED_DEFAULT,
        ge=0,
        lt=2**32,
        description="Seed of split, initial weights, shuffling and augmentation.",
    )

    # Recorded by train.py for the other scripts; not flags.
    class_names: Suppress[kerakit.ClassNames] = Field((), description="In the order of outputs.")
    task: Suppress[dict[str, Any]] = Field({}, description="The task, with what it learned.")
    phases: Suppress[tuple[str, ...]] = Field((), description="The phases of --strategy.")
    preprocessing: Suppress[Preprocessing] = Field(Preprocessing(), description="PREPROCESSING.")
    split: Suppress[dict[str, Any]] = Field({}, description="SHA-256 and counts of split.csv.")
    architecture: Suppress[dict[str, str]] = Field({}, description="Fingerprint of the model.")

    _subfolder = field_validator("save_to")(_check_subfolder)

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: str) -> str:
        return kerakit.check_choice("model", value, MODELS)

    @field_validator("track")
    @classmethod
    def _check_trackers(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        names = [kerakit.check_choice("tracker", name, TRACKER_NAMES) for name in value]
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _check_combinations(self) -> TrainConfig:
        if self.from_ckpt is not None and self.weights == "imagenet":
            raise ValueError("--from_ckpt and --weights imagenet are mutually exclusive; omit one")
        if self.jitter_strength != 1 and not self.jitter:
            raise ValueError("--jitter_strength has no effect without --jitter; give both")
        return self


class DeployConfig(kerakit.Config):
    """Flags of deploy.py."""

    read_from: Path = Field(description="Run folder: the --save_to of train.py.")
    save_to: kerakit.OutputPath = Field(
        description="Export folder: models, labels.txt, report.json, report.html."
    )
    formats: kerakit.List.Text | None = Field(
        None,
        description=f"Export formats, all required: {', '.join(FORMAT_NAMES)}; or {ALL_FORMATS}: "
        f"every available format. Default: {', '.join(DEFAULT_FORMATS)}, where available.",
    )
    max_drop: float = Field(
        0.01, ge=0, le=1, description="Accuracy gate: maximum accuracy drop (0.01: 1 pp)."
    )
    num_calibration: int = Field(
        200, ge=1, description="Number of training images for calibration."
    )
    edgetpu_compiler: Path | None = Field(
        None, description="Path of Google's edgetpu_compiler; default: found on PATH."
    )
    edgetpu_runtime: int | None = Field(
        None,
        ge=10,
        le=14,
        description="Minimum Edge TPU runtime version, 10 to 14; default: the compiler's, 14.",
    )
    edgetpu_compiled: Path | None = Field(
        None, description="model_edgetpu.tflite compiled on another machine, to verify and export."
    )
    data_dir: kerakit.DataPath | None = Field(
        None, description="Dataset; default: that of the run."
    )
    bundle: Literal["frigate"] | None = Field(
        None, description="Folder for a program that runs the int8 model of a detector."
    )
    push: str | None = Field(
        None,
        description="Repository on the Hugging Face Hub for the export, such as hf:user/name.",
    )
    overwrite: bool = Field(False, description="Replace an existing export in --save_to.")

    _subfolder = field_validator("save_to")(_check_subfolder)

    @field_validator("edgetpu_compiler")
    @classmethod
    def _check_program(cls, value: Path | None) -> Path | None:
        found = value and (shutil.which(value.absolute()) or shutil.which(value))
        if value and not found:
            raise ValueError(f"{value} is not an executable program")
        return Path(found) if found else None

    @field_validator("formats")
    @classmethod
    def _check_formats(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        choices = (*FORMAT_NAMES, ALL_FORMATS)
        return value and tuple(kerakit.check_choice("format", name, choices) for name in value)


class EvaluateConfig(kerakit.Config):
    """Flags of evaluate.py."""

    read_from: Path = Field(description="Run folder: the --save_to of train.py.")
    data_dir: kerakit.DataPath | None = Field(
        None, description="Dataset; default: that of the run."
    )
    check_labels: Path | None = Field(
        None, description="Instead, list probable label errors in this check.csv."
    )


class PredictConfig(kerakit.Config):
    """Flags of predict.py."""

    read_from: Path = Field(description="Run folder: the --save_to of train.py.")
    images: Positional[tuple[Path, ...]] = Field(description="Images and image folders.")
    top: int | None = Field(
        None,
        ge=1,
        description="Number of labels per image; default: one of a classifier, all of other tasks.",
    )
    as_json: bool = Field(False, description="Print JSON instead of CSV.")
    draw: Path | None = Field(
        None, description="Folder for the images with their predictions, as PNG files."
    )


def save(config: TrainConfig, run: kerakit.Run) -> None:
    """Write the configuration of a run."""
    config.save(run.config)


def read(run: kerakit.Run | Path | str) -> TrainConfig:
    """Read the configuration of a run, or of a run folder."""
    run = run if isinstance(run, kerakit.Run) else kerakit.Run.open(run)
    return TrainConfig.read(run.config)


def read_phases(from_ckpt: Path | None) -> tuple[str, ...] | None:
    """Return the phases of the run of --from_ckpt; () for a weights file, None without one."""
    if from_ckpt is None:
        return None
    return read(from_ckpt).phases if from_ckpt.is_dir() else ()
