"""The folder of a hyperparameter search: its runs, and its study in SQLite."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerakit.errors import UserError, first_line
from kerakit.files import OutputFolder, atomic_write
from kerakit.run import Run

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage

_STUDY_NAME = "kerakit"


class SearchFolder(OutputFolder):
    """A search folder.

    Attributes:
        database: path of study.db.
        table: path of trials.csv.
        chart: path of trials.png.
    """

    kind = "search"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.database = self.path / "study.db"
        self.table = self.path / "trials.csv"
        self.chart = self.path / "trials.png"

    def run(self, number: int) -> Run:
        """Return the run of a trial."""
        return Run(self.path / f"trial_{number:03d}")

    def runs(self) -> list[Run]:
        """Return the runs of all trials."""
        folders = sorted(self.path.glob("trial_*"))
        return [Run(path) for path in folders if re.fullmatch(r"trial_\d{3,}", path.name)]

    def owned(self) -> list[Path]:
        """Return the files and folders of a search."""
        return [self.database, *(run.path for run in self.runs()), self.table, self.chart]

    def recorded(self) -> list[Path]:
        """Return all, if there is a study, which ``load_study`` checks, or at least a run."""
        ours = self.database.exists() or any(run.is_ours() for run in self.runs())
        return self.owned() if ours else []

    def create_study(self, direction: str, attributes: Mapping[str, Any]) -> Study:
        """Create the study, in place of an existing search.

        A kill leaves the complete study, or none and perhaps runs, which --overwrite replaces.
        """
        import optuna

        runs = self.runs()
        for run in runs:
            run.check_new(overwrite=True)
        # SQLite would apply the journal of the old database to the new one.
        for path in (self.database, self.path / "study.db-journal", self.table, self.chart):
            path.unlink(missing_ok=True)
        for run in runs:
            run.remove()
        with atomic_write(self.database) as path:
            study = optuna.create_study(
                storage=_open_storage(path), study_name=_STUDY_NAME, direction=direction
            )
            for key, value in attributes.items():
                study.set_user_attr(key, value)
        return self.load_study()

    def load_study(self) -> Study:
        """Load the study. Raises UserError for a damaged database, or one of another program."""
        import optuna

        try:
            # Without new tables: a database of another program stays as it is.
            storage = _open_storage(self.database, skip_table_creation=True)
            study = optuna.load_study(study_name=_STUDY_NAME, storage=storage)
            with storage.engine.connect() as connection:
                reason, count, size = (
                    connection.exec_driver_sql(f"PRAGMA {name}").one()[0]
                    for name in ("quick_check(1)", "page_count", "page_size")
                )
            if count * size != self.database.stat().st_size:
                reason = "the file is truncated"
            if reason == "ok":
                reason = _read_all(study)
        except KeyError:
            reason = "no study of Kerakit"
        # Damaged values raise errors of many types: of Optuna, SQLAlchemy, json, datetime.
        except Exception as error:
            reason = first_line(find_cause(error))
        if reason != "ok":
            raise UserError(
                f"{self.database} is damaged or belongs to another program: {reason}. Restore it "
                "from a backup, delete it, or choose another --save_to."
            )
        return study


def _open_storage(path: Path, **options: Any) -> RDBStorage:
    import optuna
    import sqlalchemy

    # Not by a URL, in which characters such as ? and { have a meaning; no pool, so that no
    # connection stays open. The timeout is for locks of other programs, such as optuna-dashboard.
    engine = {
        "creator": lambda: sqlite3.connect(path, timeout=60),
        "poolclass": sqlalchemy.pool.NullPool,
    }
    return optuna.storages.RDBStorage("sqlite://", engine_kwargs=engine, **options)


def _read_all(study: Study) -> str:
    """Read every value of a study, which raises errors for damaged ones; return "ok" or why not."""
    if study.direction.name not in ("MINIMIZE", "MAXIMIZE"):
        return "it has no direction"
    if not isinstance(study.user_attrs.get("flags"), dict):
        return "the flags of the search are missing"
    for trial in study.trials:
        is_complete = trial.state.name == "COMPLETE"
        if is_complete and not (trial.value is not None and math.isfinite(trial.value)):
            return f"trial {trial.number} has no score"
    return "ok"


def find_cause(error: BaseException) -> BaseException:
    """Return the error of SQLite behind those of Optuna and SQLAlchemy."""
    return find_cause(error.__cause__) if error.__cause__ else error
