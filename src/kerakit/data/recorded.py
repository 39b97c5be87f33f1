"""The split of a run: recorded when training starts, restored for everything that scores it."""

from __future__ import annotations

import csv
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from kerakit.address import as_url
from kerakit.data.reader import Reader, check_class_names, held_out_mode
from kerakit.data.split import MODES, Mode
from kerakit.errors import UserError, list_names
from kerakit.files import atomic_write, damaged, sha256
from kerakit.run import Run

ReaderT = TypeVar("ReaderT", bound=Reader)

_COLUMNS = ["path", "split"]


def record_split(
    reader: Reader, run: Run, expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    r"""Write split.csv, the split of each image by its key; return the entry of config.json.

    Args:
        reader: the dataset; its keys must be unique.
        run: an existing run folder.
        expected: the entry of a run that is resumed.

    Returns:
        ``sha256`` of the file, the number of images per split, and ``recipe``: that of a
        ``DataReader``; a reader of another class has none.

    Raises:
        UserError: two images have one key, or the split differs from the expected one.

    >>> from tempfile import TemporaryDirectory
    >>> from kerakit.data import DataReader
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "labels.csv"
    ...     rows = ["path,label,split", "a.jpg,cat,train", "b.jpg,dog,train", "c.jpg,dog,val"]
    ...     _ = table.write_text("\n".join(rows))
    ...     entry = record_split(DataReader(table), Run(folder))
    ...     Run(folder).split.read_text().splitlines()
    ['path,split', 'a.jpg,train', 'b.jpg,train', 'c.jpg,val']
    >>> entry["train"], entry["val"], entry["test"]
    (2, 1, 0)
    """
    counts: dict[str, int] = {}
    digests = []
    with atomic_write(run.split) as temporary:
        # Keys are paths, which need not be text.
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for mode in MODES:
                keys = [str(reader.key(int(i))) for i in reader.indices(mode)]
                writer.writerows([key, mode] for key in keys)
                counts[mode] = len(keys)
                digests.append(_digests(keys))
        _check_unique(np.concatenate(digests), reader)
        digest = sha256(temporary)
        if expected and expected.get("sha256") != digest:
            _reject_split(run, expected, counts)
    recipe = getattr(reader, "recipe", None)
    return {"sha256": digest, **counts, "recipe": recipe() if recipe else None}


def describe_data(trained: Any) -> dict[str, Any]:
    """Return the dataset of a run for reports: name, images per split, fingerprints.

    Args:
        trained: configuration of the run: ``data_dir`` and ``split``.

    >>> from types import SimpleNamespace
    >>> split = {"train": 8, "val": 1, "test": 1, "recipe": {"fingerprint": "5296"}}
    >>> describe_data(SimpleNamespace(data_dir=Path("/data/photos"), split=split))
    {'name': 'photos', 'train': 8, 'val': 1, 'test': 1, 'fingerprint': '5296'}
    """
    recipe = trained.split.get("recipe") or {}
    values: dict[str, Any] = {"name": Path(trained.data_dir).name}
    values |= {mode: trained.split.get(mode) for mode in MODES}
    values |= {key: recipe.get(key) for key in ("fingerprint", "content")}
    return {key: value for key, value in values.items() if value is not None}


def _reject_split(run: Run, expected: Mapping[str, Any], counts: Mapping[str, int]) -> NoReturn:
    before, now = (
        ", ".join(f"{each.get(mode)} {mode}" for mode in MODES) for each in (expected, counts)
    )
    raise UserError(
        f"{run.path} cannot be resumed: its images, or their split, changed since it was started: "
        f"{before}, now {now}. Restore them (data, TRAIN_RATIO_DEFAULT, check.csv), or start a new "
        "run with another --save_to."
    )


def restore_reader(
    reader_class: Callable[..., ReaderT], run: Run, trained: Any, data_dir: Path | None = None
) -> ReaderT:
    """Return the dataset of a run with the split of its training, whatever config.py says now.

    Held-out images are exactly those of the training, identified by their keys. Images that were
    added since are in no split. Exclusions that were added since do not apply.

    Args:
        reader_class: class of the project's reader; called with ``data_dir`` and ``seed``, and with
            ``exclusions=None`` if it has that parameter.
        run: the run.
        trained: its configuration: ``data_dir``, ``seed``, ``class_names``, ``split``.
        data_dir: where the dataset is now; default: where it was.

    Raises:
        UserError: no dataset there, other classes, held-out images that are missing, or a
            damaged split.csv.

    >>> from types import SimpleNamespace
    >>> from kerakit.data import DataReader
    >>> trained = SimpleNamespace(data_dir=Path("/gone"), seed=0, class_names=(), split={})
    >>> restore_reader(DataReader, Run("progress/test"), trained)
    Traceback (most recent call last):
    kerakit.errors.UserError: the dataset of progress/test is not in /gone any more...
    """
    place = data_dir or trained.data_dir
    if data_dir is None and as_url(place) is None and not place.exists():
        raise UserError(
            f"the dataset of {run.path} is not in {place} any more. Pass its present path with "
            "--data_dir."
        )
    options = {"seed": trained.seed}
    recorded = _read_split(run, trained.split)
    if recorded is not None and "exclusions" in inspect.signature(reader_class).parameters:
        options["exclusions"] = None
    reader = reader_class(place, **options)
    check_class_names(reader, trained.class_names)
    if recorded is None:
        print(
            f"WARNING: {run.path} has no record of its split (split.csv): it was trained with an "
            "earlier version. The split follows config.py as it is now; if TRAIN_RATIO_DEFAULT or "
            "check.csv changed since, held-out images may have been trained on.",
            flush=True,
        )
        return reader
    indices = _match(reader, recorded)
    try:
        # On the object: its own methods must see this split, too.
        object.__setattr__(reader, "indices", lambda mode: indices[mode])
    except AttributeError:
        raise UserError(
            f"{type(reader).__name__} has __slots__, so that its split cannot be restored. Omit "
            "them."
        ) from None
    _check_held_out(reader, recorded, run, place)
    return reader


def _read_split(run: Run, entry: dict[str, Any]) -> dict[Mode, list[str]] | None:
    """Return the recorded keys per split; None if the run has no record."""
    if not entry:
        return None
    if not run.split.is_file():
        raise UserError(
            f"{run.split} is missing, so that the held-out images of the run are unknown. Restore "
            "it from a backup, or train again."
        )
    if sha256(run.split) != entry.get("sha256"):
        raise damaged(run.split, "its SHA-256 differs from that in config.json")
    keys: dict[Mode, list[str]] = {mode: [] for mode in MODES}
    try:
        with run.split.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file)
            if next(rows, None) != _COLUMNS:
                raise ValueError("expected the columns path and split")
            for key, mode in rows:
                keys[mode].append(key)  # type: ignore[index] # checked by the lookup
    except (ValueError, KeyError, csv.Error) as error:
        raise damaged(run.split, error) from None
    return keys


def _match(reader: Reader, recorded: dict[Mode, list[str]]) -> dict[str, NDArray[np.int64]]:
    """Return the dataset indices of the recorded images that exist, per split, ascending."""
    present = _digests(reader.key(i) for i in range(len(reader)))
    _check_unique(present, reader)
    return {
        mode: np.flatnonzero(np.isin(present, _digests(keys))) for mode, keys in recorded.items()
    }


def _check_held_out(reader: Reader, recorded: dict[Mode, list[str]], run: Run, place: Path) -> None:
    mode: Mode = "test" if recorded["test"] else "val"
    expected, found = recorded[mode], reader.indices(mode)
    if len(found) < len(expected):
        present = {str(reader.key(int(i))) for i in found}
        missing = [key for key in expected if key not in present]
        excluded = getattr(reader, "num_excluded", 0)
        note = f" ({excluded} images are excluded by check.csv)" if excluded else ""
        raise UserError(
            f"the data does not fit {run.path}: its training held out {len(expected)} images, and "
            f"{place} has {len(found)} of them; missing: {list_names(missing)}{note}. Restore "
            "them, pass the dataset of the training with --data_dir, or train again."
        )
    if not len(reader.indices("train")):
        raise UserError(
            f"the data does not fit {run.path}: {place} has none of the {len(recorded['train'])} "
            "images that it was trained on. Pass the dataset of the training with --data_dir."
        )
    assert held_out_mode(reader) == mode  # noqa: S101 - by the counts above


def _digests(keys: Iterable[str]) -> NDArray[np.uint64]:
    """Return 8 bytes per key: a million keys take 8 MB."""
    content = b"".join(
        blake2b(str(key).encode("utf-8", "surrogateescape"), digest_size=8).digest() for key in keys
    )
    return np.frombuffer(content, np.uint64)


def _check_unique(digests: NDArray[np.uint64], reader: Reader) -> None:
    if len(np.unique(digests)) < len(digests):
        keys = Counter(str(reader.key(i)) for i in range(len(reader)))
        raise UserError(
            f"two images of {type(reader).__name__} have the same key(i): "
            f"{keys.most_common(1)[0][0]!r}. Keys must be unique, such as paths relative to the "
            "dataset: they identify the images that were held out."
        )
