"""Threads that read images and die, hang, or raise what is no error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fork_server import ForkServer
from kerakit import threads
from kerakit.data import BatchGenerator, DataReader
from kerakit.errors import JobError
from projects import Project, edit


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "WARNING_S", 0.2)
    monkeypatch.setattr(threads, "LIMIT_S", 0.5)
    yield
    threads.stuck.clear()


def read(photos: Path, act: Callable[[], object]) -> None:
    """Read an epoch, with something that happens in the third batch."""

    class Generator(BatchGenerator):
        def preprocess(self, image: Any, annot: Any) -> tuple[Any, Any]:
            if next(count) == 10:
                act()
            return image, annot

    count = iter(range(10**9))
    generator = Generator(DataReader(photos), batch_size=4, input_size=(16, 12), threads=1)
    try:
        for i in range(len(generator)):
            images, _ = generator[i]
            assert len(images) == 4
    finally:
        generator.close()


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_ends_iterations_and_programs_is_an_error_of_a_thread(
    photos_once: Path, error: type[BaseException]
) -> None:
    def act() -> None:
        raise error

    with pytest.raises(RuntimeError, match=f"{error.__name__} in a thread that reads batch 2"):
        read(photos_once, act)


def test_errors_of_threads_are_raised(photos_once: Path) -> None:
    def act() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        read(photos_once, act)


def test_a_thread_that_hangs_is_named(
    photos_once: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = threading.Event()
    with pytest.raises(JobError, match=r"no batch for .* s; reading: .*\.png"):
        read(photos_once, lambda: end.wait(60))
    end.set()
    assert "WARNING: no batch for 0 s; reading: " in capsys.readouterr().err
    assert threads.stuck


def test_a_thread_that_has_died_is_an_error() -> None:
    watch = threads.Watch(str)
    thread = threading.Thread(target=watch.begin, args=(7,))
    thread.start()
    thread.join()
    with pytest.raises(JobError, match="a thread died while it read 7"):
        watch.wait(iter(lambda: threading.Event().wait(1), None))


def test_a_training_with_a_thread_that_hangs_ends(project: Project, server: ForkServer) -> None:
    edit(
        project.path / "datagen.py",
        "        return image, annot\n",
        "        import threading, time\n"
        "        if threading.current_thread() is not threading.main_thread():\n"
        "            time.sleep(600)\n"
        "        return image, annot\n",
    )
    edit(
        project.path / "train.py",
        "import config\n",
        "from kerakit import threads\nthreads.WARNING_S, threads.LIMIT_S = 0.5, 1\nimport config\n",
    )
    flags = ["--save_to", "progress/test", "--model", "tiny", "--input_size", "16,12"]
    done = server.run(project.path, "train.py", *flags)
    assert done.code == 1, done.err
    assert "error: no batch for 1 s; reading: " in done.err
    assert "Traceback" not in done.err
    assert not (project.path / "progress" / "test").exists()
