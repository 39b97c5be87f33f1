"""Training: callbacks, phases, cached features, evaluation and search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerakit.lazy import lazy_names

if TYPE_CHECKING:
    from kerakit.extras import check_trackers
    from kerakit.training.backend_state import build_variables
    from kerakit.training.callbacks import (
        Checkpoints,
        EpochLogger,
        FailOnNaN,
        HistoryWriter,
        StepScheduler,
    )
    from kerakit.training.checks import check_batch
    from kerakit.training.distribution import join_processes, use_all_devices
    from kerakit.training.evaluation import choose_thresholds, evaluate
    from kerakit.training.features import FeatureDataset, FeatureStore
    from kerakit.training.label_errors import check_labels
    from kerakit.training.phases import apply_sample_weights, select_phases
    from kerakit.training.resume import TrainingState
    from kerakit.training.search import Search
    from kerakit.training.session import check_callbacks, training_session
    from kerakit.training.split_model import (
        backbone_layers,
        find_split,
        freeze_lower,
        leaf_layers,
        split_at,
    )
    from kerakit.training.task_metrics import TaskMetrics
    from kerakit.training.tensorboard_logs import TensorBoard
    from kerakit.training.throughput import ThroughputMonitor
    from kerakit.training.trackers import get_trackers
    from kerakit.training.tune import find_batch_size, find_learning_rate, set_mixed_precision

TRACKER_NAMES = ("mlflow", "wandb")
"""Values of ``--track``: the names of the packages.

>>> "mlflow" in TRACKER_NAMES
True
"""

_HOMES = {
    "backbone_layers": "kerakit.training.split_model",
    "build_variables": "kerakit.training.backend_state",
    "apply_sample_weights": "kerakit.training.phases",
    "StepScheduler": "kerakit.training.callbacks",
    "check_batch": "kerakit.training.checks",
    "freeze_lower": "kerakit.training.split_model",
    "join_processes": "kerakit.training.distribution",
    "use_all_devices": "kerakit.training.distribution",
    "leaf_layers": "kerakit.training.split_model",
    "Checkpoints": "kerakit.training.callbacks",
    "EpochLogger": "kerakit.training.callbacks",
    "FailOnNaN": "kerakit.training.callbacks",
    "FeatureDataset": "kerakit.training.features",
    "FeatureStore": "kerakit.training.features",
    "HistoryWriter": "kerakit.training.callbacks",
    "Search": "kerakit.training.search",
    "TaskMetrics": "kerakit.training.task_metrics",
    "TensorBoard": "kerakit.training.tensorboard_logs",
    "TrainingState": "kerakit.training.resume",
    "ThroughputMonitor": "kerakit.training.throughput",
    "check_trackers": "kerakit.extras",
    "check_labels": "kerakit.training.label_errors",
    "check_callbacks": "kerakit.training.session",
    "choose_thresholds": "kerakit.training.evaluation",
    "evaluate": "kerakit.training.evaluation",
    "find_batch_size": "kerakit.training.tune",
    "find_learning_rate": "kerakit.training.tune",
    "find_split": "kerakit.training.split_model",
    "get_trackers": "kerakit.training.trackers",
    "select_phases": "kerakit.training.phases",
    "set_mixed_precision": "kerakit.training.tune",
    "split_at": "kerakit.training.split_model",
    "training_session": "kerakit.training.session",
}

__all__ = [
    "TRACKER_NAMES",
    "Checkpoints",
    "EpochLogger",
    "FailOnNaN",
    "FeatureDataset",
    "FeatureStore",
    "HistoryWriter",
    "Search",
    "StepScheduler",
    "TaskMetrics",
    "TensorBoard",
    "ThroughputMonitor",
    "TrainingState",
    "apply_sample_weights",
    "backbone_layers",
    "build_variables",
    "check_batch",
    "check_callbacks",
    "check_labels",
    "check_trackers",
    "choose_thresholds",
    "evaluate",
    "find_batch_size",
    "find_learning_rate",
    "find_split",
    "freeze_lower",
    "get_trackers",
    "join_processes",
    "leaf_layers",
    "select_phases",
    "set_mixed_precision",
    "split_at",
    "training_session",
    "use_all_devices",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
