"""Training on all devices of a machine, and by many processes: on JAX, by ``keras.distribution``.

Kerakit divides batches, not models: each device has all weights and a part of each batch, and sees
the loss, the gradients and the batch statistics of the whole. The losses are those of one device.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from kerakit import world
from kerakit.config import Config
from kerakit.console import keras_backend
from kerakit.errors import JobError, KerakitError, UserError, first_line
from kerakit.machine import list_devices
from kerakit.run import Run
from kerakit.state_folder import StateFolder
from kerakit.training.launch import Launch, find_launch
from kerakit.world import FAILED_KEY, WAIT_MS, World

ConfigT = TypeVar("ConfigT", bound=Config)

HEARTBEAT_SECONDS = 60
"""Seconds without a sign of life after which a process is lost, and all others end."""

START_SECONDS = 300
"""Seconds in which all processes have to start."""

_LOST = "The state is that of the last save: repeat your command with --resume."
"""Advice after the loss of a process of a training."""


def join_processes(args: ConfigT) -> ConfigT:
    """Join the other processes of a training or an evaluation, if there are several.

    They are found by the variables of SLURM, Open MPI or Keras (see the guide "Training"). Process
    0 writes the run folder, and prints. The others write to a temporary folder, which they remove
    at the end; to resume or to evaluate, they get the files of process 0. The processes of a search
    (``trials``) share its folder alone: each trains trials of its own.

    Args:
        args: flags of train.py, with ``save_to``, ``resume`` and ``track``, or of evaluate.py, with
            ``read_from``.

    Returns:
        The flags for this process.

    Raises:
        UserError: the backend is not JAX, or the processes cannot be joined.

    >>> class Flags(Config):
    ...     save_to: str = "progress/test"
    >>> join_processes(Flags()).save_to
    'progress/test'
    """
    if getattr(args, "trials", None):
        return args
    launch = _find_joined() or find_launch(os.environ)
    if launch is None:
        return args
    source = getattr(args, "read_from", None)
    started = f"{launch.size} processes were started ({launch.launcher})"
    if keras_backend() != "jax":
        raise UserError(
            f"{started}, and Keras's backend is {keras_backend()}: each of them would do the "
            "same work. Several processes work together on JAX: set KERAS_BACKEND=jax. Or start "
            "one process."
        )
    _initialize(launch)
    import jax

    devices = jax.device_count()
    if jax.local_device_count() * launch.size != devices:
        raise UserError(
            f"process {launch.rank} has {jax.local_device_count()} of {devices} devices, and there "
            f"are {launch.size} processes: start them with the same number of devices each."
        )
    me = World(launch.rank, launch.size, devices)
    folder = None if me.is_main else Path(tempfile.mkdtemp(prefix=f"kerakit-{me.rank}-"))
    world.join(me)
    _end_together(me, _LOST if source is None else "Repeat your command.")
    _connect(me)
    if folder is not None:
        remove = partial(shutil.rmtree, folder, ignore_errors=True)
        world.on_leave(remove)
        atexit.register(remove)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    print(f"{started}, with {devices} devices", flush=True)
    path = args.save_to if source is None else source  # type: ignore[attr-defined]
    run = Run(path if folder is None else folder / "run")
    if source is not None:
        _send_files(me, run, _files_to_evaluate(run) if me.is_main else [])
        return args.model_copy(update={"read_from": run.path})
    if args.resume != "no":  # type: ignore[attr-defined]
        _send_files(me, run, _files_to_resume(run) if me.is_main else [])
    if folder is None:
        return args
    return args.model_copy(update={"save_to": run.path, "track": None})


def use_all_devices() -> None:
    """Let Keras train on all devices; with one, do nothing. Before Keras creates an array.

    Raises:
        UserError: several processes were started, and have not been joined.

    >>> use_all_devices()
    """
    import keras

    launch = find_launch(os.environ)
    if launch is not None and world.current.size == 1:
        raise UserError(
            f"{launch.size} processes were started ({launch.launcher}), and each would do the same "
            "work: only train.py and evaluate.py divide it. Start one process, which uses all "
            "devices of the machine."
        )
    if keras.backend.backend() != "jax":
        devices = list_devices()
        if len(devices) > 1 and not devices[0].startswith("cpu"):
            print(
                f"WARNING: {keras.backend.backend()} uses one of {len(devices)} devices. To use "
                "all, set KERAS_BACKEND=jax.",
                flush=True,
            )
        return
    import jax

    if jax.device_count() == 1:
        return
    if world.current.size == 1:
        world.join(World(devices=jax.device_count()))
        print(f"{jax.device_count()} devices", flush=True)
    _patch_keras(world.current)
    found = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))
    names = [f"{one.platform}:{one.id}" for one in found]
    mesh = keras.distribution.DeviceMesh((len(names),), ["batch"], names)
    keras.distribution.set_distribution(
        # True, the default of later versions, would multiply the batch size by the processes.
        keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False)
    )


def describe_lost(error: BaseException, advice: str = _LOST) -> str | None:
    """Return a message for an error that the loss of another process has caused, or None."""
    # JAX raises errors of several types for it.
    is_of_network = any(word in str(error).lower() for word in ("gloo", "nccl"))
    if world.current.size == 1 or not is_of_network or isinstance(error, KerakitError):
        return None
    return f"another process was lost ({first_line(error)}). {advice}"


# ------------------------------------------------------------------------------------- internals


def _find_joined() -> Launch | None:
    """Return the processes that were joined before this script, such as by Ray; None: none."""
    if "jax" not in sys.modules:
        return None
    from jax._src.distributed import global_state  # JAX has no public name for it

    if global_state.client is None or global_state.num_processes == 1:
        return None
    return Launch("joined by JAX", global_state.num_processes, global_state.process_id)


def _initialize(launch: Launch) -> None:
    import jax

    if jax.distributed.is_initialized():
        return
    # It would replace the handler of SIGTERM; Kerakit's own stops all processes after one step.
    jax.config.update("jax_enable_preemption_service", False)  # type: ignore[no-untyped-call]
    try:
        jax.distributed.initialize(
            coordinator_address=launch.address,
            num_processes=launch.size,
            process_id=launch.rank,
            local_device_ids=launch.local_devices,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {launch.rank} of {launch.size} ({launch.launcher}) cannot join the others: "
            f"{first_line(error)} Check that all were started, and that they reach process 0 at "
            f"{launch.address or 'the address that JAX finds'}."
        ) from error


def _connect(me: World) -> None:
    """Open the connections among all devices, where the processes are at the same point.

    On CPUs, a process waits 30 seconds for it; later, in a step, for any time.
    """
    from jax._src.distributed import global_state

    client: Any = global_state.client
    client.wait_at_barrier("kerakit/connect", START_SECONDS * 1000)
    me.maximum(1)
    me.gather_bytes(b"1")


def _end_together(me: World, advice: str) -> None:
    """End all processes as soon as one fails, with its exit code."""
    from jax._src.distributed import global_state  # JAX has no public name for it

    client: Any = global_state.client
    hook = sys.excepthook

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        code: Any = 1
        if lost := describe_lost(error, advice):
            kind, error, trace = JobError, JobError(lost), None
        try:
            hook(kind, error, trace)
        except SystemExit as stop:
            code = stop.code
        me.leave(code if isinstance(code, int) else 1)

    key = f"{FAILED_KEY}{me.rank}"

    def watch() -> None:
        with contextlib.suppress(Exception):  # the coordination service has ended
            number, code = client.blocking_key_value_get(key, WAIT_MS).split()
            if int(number) != me.rank:
                print(
                    f"error: process {me.rank} ends, because process {number} has failed: see its "
                    "message.",
                    file=sys.stderr,
                    flush=True,
                )
                me.leave(int(code) or 1)

    thread = threading.Thread(target=watch, daemon=True, name="kerakit-watch")

    def stop_watching() -> None:
        """End the thread, which must not be in native code while Python ends."""
        with contextlib.suppress(Exception):
            client.key_value_set(key, f"{me.rank} 0")
        thread.join(5)

    sys.excepthook = end
    thread.start()
    atexit.register(stop_watching)


def _files_to_resume(run: Run) -> list[Path]:
    if not run.is_ours():
        return []
    files = [run.config, run.split, run.history, run.complete, run.index]
    files += run.checkpoints.glob("epoch-*.weights.h5")
    return files + [file for state in StateFolder(run.state).find() for file in state.iterdir()]


def _files_to_evaluate(run: Run) -> list[Path]:
    return [Run.open(run.path).best(), run.config, run.split, run.history, run.index]


def _send_files(me: World, run: Run, found: list[Path]) -> None:
    """Copy files of a run from process 0, which lists them, to the others."""
    files = [file for file in found if file.is_file() and not file.is_symlink()]
    count = int(me.from_main(len(files)))
    for i in range(count):
        name = files[i].relative_to(run.path).as_posix().encode() if me.is_main else b""
        content = files[i].read_bytes() if me.is_main else b""
        path = run.path / me.send_from_main(name).decode()
        content = me.send_from_main(content)
        if not me.is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _patch_keras(me: World) -> None:
    """Let batches of any size, and variables, reach the devices; Keras 3.15 cannot do it.

    It derives the layout of all batches of an epoch from the first one, so that a last batch which
    the devices do not divide raises; and ``device_put`` compares each value of a variable among all
    processes, such as the learning rate in each step, and waits for them.
    """
    from keras.src.backend.jax import distribution_lib

    if getattr(distribution_lib.distribute_data_input, "world", None) is me:
        return
    original = getattr(distribution_lib.distribute_tensor, "original", None)
    original = original or distribution_lib.distribute_tensor

    def distribute_data_input(batch: Any, layout: Any, batch_dim_name: str) -> Any:  # noqa: ARG001
        return me.place(batch)

    def distribute_tensor(tensor: Any, layout: Any) -> Any:
        import jax

        is_traced = isinstance(tensor, jax.core.Tracer)
        is_global = isinstance(tensor, jax.Array) and not tensor.is_fully_addressable
        if me.size == 1 or is_traced or is_global:
            return original(tensor, layout)
        return me.replicate(tensor, getattr(layout, "backend_layout", layout))

    distribute_data_input.world = me  # type: ignore[attr-defined]
    distribute_tensor.original = original  # type: ignore[attr-defined]
    distribution_lib.distribute_data_input = distribute_data_input
    distribution_lib.distribute_tensor = distribute_tensor
