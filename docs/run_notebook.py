"""Runs a notebook in an empty folder: a cell that fails is an error. Part of `make docs`.

Usage: python run_notebook.py NOTEBOOK FOLDER. The outputs are not written into the notebook.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config


def main(path: Path, folder: Path) -> None:
    """Run a notebook in ``folder``, which is replaced, and save it there with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells):
        sys.exit(f"{path} has outputs. Clear them before a commit.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    where = {"metadata": {"path": str(folder)}}
    with TemporaryDirectory() as sockets:
        # Over files instead of ports of the network.
        kernel = {"transport": "ipc", "ip": str(Path(sockets) / "kernel")}
        config = Config({"KernelManager": kernel})
        client = NotebookClient(notebook, timeout=600, resources=where, config=config)
        try:
            client.execute()
        finally:
            nbformat.write(notebook, folder / path.name)
    print(f"{path}: {len(notebook.cells)} cells, no error")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
