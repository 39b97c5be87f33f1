"""Exports on the Hugging Face Hub: upload, and download of the files that a prediction needs."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerakit import __version__
from kerakit.deploy.folder import ExportFolder
from kerakit.deploy.formats.base import LABELS, TASK
from kerakit.deploy.formats.tflite import INT8
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.errors import JobError, KerakitError, UserError, first_line, list_names, printable
from kerakit.extras import install_command, is_installed
from kerakit.files import MAX_JSON_BYTES

PREFIX = "hf:"
"""Start of the address of a repository on the hub."""

# The rules of the client (validate_repo_id of huggingface_hub).
_NAME = r"(?![.-])[\w.-]{1,96}(?<![.-])"
_ADDRESS = re.compile(
    rf"hf:(?P<repo>{_NAME}/{_NAME}(?<!\.git))"
    r"(/(?P<file>[\w.-]+\.tflite))?(@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
_EXPECTED = "Expected hf:user/name"
_MAX_MODEL_BYTES = 2**31
_LOGIN = "Run `hf auth login`, or set HF_TOKEN to a token with write permission"


@dataclass(frozen=True)
class HubAddress:
    """Address of an export on the hub: ``hf:user/name``.

    Attributes:
        repo: user, or organization, and name of the repository.
        file: name of the TensorFlow Lite file; default: the int8 model.
        revision: branch, tag or commit; None: the main branch.

    >>> HubAddress.parse("hf:ada/digits@v2")
    HubAddress(repo='ada/digits', file='model.tflite', revision='v2')
    """

    repo: str
    file: str = INT8.file
    revision: str | None = None

    @classmethod
    def parse(
        cls, text: str | Path, also: str = ", and optionally /FILE.tflite and @REVISION"
    ) -> HubAddress:
        """Return the address in a text.

        Args:
            text: such as ``hf:user/name``.
            also: optional parts, for the error message.

        Raises:
            UserError: it is none.
        """
        found = _ADDRESS.fullmatch(str(text))
        if found is None or ".." in str(text) or "--" in found["repo"]:
            raise UserError(
                f"{printable(str(text))!r} is not a repository of the Hugging Face Hub. "
                f"{_EXPECTED}{also}."
            )
        return cls(found["repo"], found["file"] or INT8.file, found["revision"])

    def __str__(self) -> str:
        """Return the address of the repository."""
        return f"{PREFIX}{self.repo}"


def is_hub_address(place: str | Path) -> bool:
    """Return whether a path is meant as an address on the hub.

    >>> is_hub_address("hf:ada/digits"), is_hub_address("deploy/test")
    (True, False)
    """
    return str(place).startswith(PREFIX)


# ---------------------------------------------------------------------------------------- upload


def check_push(address: str | None) -> None:
    """Raise UserError if an export cannot be pushed: wrong address, no package, no token.

    Args:
        address: the repository; None: nothing is pushed.

    >>> check_push(None)
    """
    if address is None:
        return
    target = HubAddress.parse(address, also="")
    if target != HubAddress(target.repo):
        raise UserError(f"cannot push to {printable(address)!r}. {_EXPECTED} alone.")
    if _client(target).get_token() is None:
        raise UserError(f"cannot push to {target}: there is no token. {_LOGIN}.")


def push_export(folder: ExportFolder, address: str, private: bool | None = None) -> str:
    """Upload the files of an export in one commit; return the URL of the repository.

    The repository is created if it is missing. Files of an earlier export that this one lacks are
    removed from it; other files stay.

    Args:
        folder: holds an export.
        address: such as ``hf:user/name``.
        private: visibility of a new repository; None: the default of the hub, which is public
            unless the settings of an organization say otherwise.

    Raises:
        UserError: no export, or one whose files contain paths of this machine; no token, or one
            without permission.
        JobError: the hub cannot be reached, or the upload fails.

    >>> push_export(ExportFolder("gone"), "hf:ada/digits")
    Traceback (most recent call last):
    kerakit.errors.UserError: gone holds no export of deploy.py. ...
    """
    files = folder.exported_files()
    if not files:
        raise UserError(f"{folder.path} holds no export of deploy.py. Expected its --save_to.")
    check_push(address)
    _check_paths(folder.path, files)
    target = HubAddress.parse(address)
    hub = _client(target)
    with _hub_errors(target, "push to"):
        api = hub.HfApi(library_name="kerakit", library_version=__version__)
        url = api.create_repo(target.repo, private=private, exist_ok=True)
        present = set(api.list_repo_files(target.repo))
        stale = [name for name in sorted(present - set(files)) if folder.owns(name)]
        operations = [
            *(hub.CommitOperationDelete(path_in_repo=name) for name in stale),
            *(hub.CommitOperationAdd(name, folder.path / name) for name in files),
        ]
        api.create_commit(
            target.repo, operations, commit_message=f"Export of Kerakit {__version__}"
        )
    return str(url)


def _check_paths(folder: Path, files: list[str]) -> None:
    """Raise UserError if a file contains a path of this machine: the export is published."""
    places = {Path.home(), Path.cwd(), folder.resolve(), Path(tempfile.gettempdir()).resolve()}
    needles = b"|".join(re.escape(f"{place}/".encode()) for place in places if place.parts[1:])
    for name in files:
        # Base64 has "/", too: in a page of 10 MB, "/tmp/" occurs by chance once in 100 times.
        start = rb"(?<![A-Za-z0-9+/])" if name.endswith(".html") else b""
        found = re.search(start + b"(?:" + needles + b")", (folder / name).read_bytes())
        if found is not None:
            raise UserError(
                f"{folder / name} contains a path of this machine, {found[0].decode()!r}, which "
                "would be published. Export again with a relative --read_from, or edit the file."
            )


# -------------------------------------------------------------------------------------- download


def fetch_export(address: str | Path) -> Path:
    """Download the files of an export that a prediction needs; return the path of the model.

    They are the model, labels, and JSON files; no code. The hub's client caches them.

    Args:
        address: such as ``hf:user/name``.

    Raises:
        UserError: no such repository, no permission, or no export in it.
        JobError: the hub cannot be reached, and the files are not in the cache.

    >>> fetch_export("hf:digits")
    Traceback (most recent call last):
    kerakit.errors.UserError: 'hf:digits' is not a repository of the Hugging Face Hub. ...
    """
    source = HubAddress.parse(address)
    hub = _client(source)
    wanted = (source.file, LABELS, TASK, PREPROCESSING, "report.json")
    with _hub_errors(source, "read"):
        try:
            info = hub.HfApi().model_info(
                source.repo, revision=source.revision, files_metadata=True
            )
        except Exception as error:
            if getattr(error, "response", None) is not None:
                raise
            return _find_cached(hub, source, list(wanted), error)
        sizes = {one.rfilename: one.size for one in info.siblings or ()}
        _check_files(source, wanted, sizes)
        # By the name of the revision, not the commit: the cache finds it without a network.
        folder = hub.snapshot_download(
            source.repo, revision=source.revision, allow_patterns=list(wanted)
        )
    return Path(folder) / source.file


def _check_files(source: HubAddress, wanted: tuple[str, ...], sizes: dict[str, int | None]) -> None:
    if source.file not in sizes:
        models = sorted(name for name in sizes if re.fullmatch(r"[\w.-]+\.tflite", name))
        has = (
            f"It has {list_names(models)}: use {source}/{models[0]}"
            if models
            else f"{_EXPECTED} of an export"
        )
        raise UserError(f"{source} has no {source.file}. {has}.")
    for name in wanted:
        limit = _MAX_MODEL_BYTES if name == source.file else MAX_JSON_BYTES
        if (sizes.get(name) or 0) > limit:
            raise UserError(f"{source}: {name} is larger than {limit // 2**20} MiB.")


def _find_cached(hub: Any, source: HubAddress, wanted: list[str], error: Exception) -> Path:
    """Return the path of a model that was downloaded before, where the hub cannot be reached."""
    try:
        folder = hub.snapshot_download(
            source.repo, revision=source.revision, allow_patterns=wanted, local_files_only=True
        )
    except Exception:
        raise error from None
    path = Path(folder) / source.file
    if not path.is_file():
        raise error
    print(
        f"note: the hub cannot be reached ({printable(first_line(error))}): {source} is read from "
        "the cache.",
        file=sys.stderr,
    )
    return path


# ------------------------------------------------------------------------------------- the client


def _client(address: HubAddress) -> Any:
    """Return the module ``huggingface_hub``."""
    if not is_installed("huggingface_hub"):
        raise UserError(
            f"{address} needs a package that is not installed: {install_command('hub')}"
        )
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return huggingface_hub


@contextlib.contextmanager
def _hub_errors(address: HubAddress, verb: str) -> Iterator[None]:
    """Turn the errors of the client, whose types depend on its version, into messages."""
    try:
        yield
    except (KerakitError, MemoryError):
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        # Of an upload, the client's own error says only which file failed.
        cause = error if status is not None else error.__cause__ or error
        reason = printable(first_line(cause))
        if status == 401 and verb == "push to":
            raise UserError(
                f"cannot push to {address}: the token is not valid. {_LOGIN}."
            ) from None
        if status in (401, 404):
            raise UserError(
                f"cannot {verb} {address}: there is no such repository or revision, or it is "
                "private and your token does not allow it. Check the name, or run `hf auth login`."
            ) from None
        if status == 403:
            raise UserError(
                f"cannot {verb} {address}: your token has no permission for it. {_LOGIN}."
            ) from None
        raise JobError(f"cannot {verb} {address}: {type(cause).__name__}: {reason}") from None
