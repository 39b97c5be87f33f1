"""Loading the weights of a checkpoint into a model, once it is known that they fit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerakit.architecture import fingerprint
from kerakit.errors import UserError, first_line
from kerakit.files import damaged, read_json
from kerakit.run import Run
from kerakit.weights import check_hdf5, check_weights

if TYPE_CHECKING:
    import keras


def load_weights(model: keras.Model, path: Path | str) -> Path:
    """Load weights into ``model``; return the path of the weights file.

    Args:
        model: a built model.
        path: a weights file (.weights.h5), or a run folder, for its best checkpoint.

    Raises:
        UserError: no such file, a damaged file, a file of another model, NaN weights, or, of a
            run folder, a model whose architecture changed since it was trained.

    >>> import keras
    >>> load_weights(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), "missing")
    Traceback (most recent call last):
    kerakit.errors.UserError: there is no file missing. Expected a checkpoint (.weights.h5) ...
    """
    path, run = Path(path), None
    if path.is_dir():
        run = Run.open(path)
        path = run.best()
    if not path.is_file():
        raise UserError(
            f"there is no file {path}. Expected a checkpoint (.weights.h5) or a run folder."
        )
    if not path.name.endswith(".weights.h5"):
        raise UserError(f"{path} is not a checkpoint: expected the file extension .weights.h5.")
    check_hdf5(path)
    try:
        with warnings.catch_warnings():
            # Keras names each layer that does not fit; one message says it below.
            warnings.simplefilter("ignore")
            model.load_weights(path)
    except (ValueError, KeyError):
        other = "" if run else ", or is damaged"
        raise UserError(
            f"{path} does not fit this model ({model.name}){other}: layers or shapes differ. "
            "Was it trained with another --model, --input_size or number of classes?"
        ) from None
    except Exception as error:
        # h5py raises OSError, RuntimeError, TypeError and others for damaged files.
        raise damaged(path, first_line(error)) from None
    if run is not None:
        _check_architecture(model, run)
    check_weights(model, str(path))
    return path


def _check_architecture(model: keras.Model, run: Run) -> None:
    """Raise UserError if the weights of ``run`` fit ``model``, but were trained in another one."""
    config = read_json(run.config, dict)
    recorded: Any = config.get("architecture")
    # At another input size, as with --from_ckpt, a model may differ in its padding.
    shape = model.inputs[0].shape if model.inputs else ()
    same_size = config.get("input_size") == list(shape[2:0:-1])
    if not isinstance(recorded, dict) or not recorded or not same_size:
        return
    current = fingerprint(model)
    if current["sha256"] == recorded.get("sha256"):
        return
    if current["keras"] != recorded.get("keras"):
        print(
            f"WARNING: the architecture of {run.path} was recorded by Keras "
            f"{recorded.get('keras')} and cannot be compared by Keras {current['keras']}.",
            flush=True,
        )
        return
    raise UserError(
        f"the architecture of {model.name} changed since {run.path} was trained: its fingerprint "
        f"was {str(recorded.get('sha256'))[:12]}, is {current['sha256'][:12]}. The weights fit, "
        "but the model would compute something else. Undo the change in models/, or train again; "
        "to start a new training from these weights, pass the .weights.h5 file to --from_ckpt."
    )
