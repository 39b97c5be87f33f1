"""The adapter of Google's Edge TPU compiler.

The compiler is not available here. REPLAY stands in for it: a program that prints the output of the
real compiler, verbatim from public logs of versions 16.0.384591198 and 14.1, and writes a real
compiled file. It proves how output, files and exit codes are read, and nothing about compiling.
"""
# ruff: noqa: E501 - verbatim logs

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from converted import read_pair
from kerakit import JobError
from kerakit.deploy.edgetpu.compiler import compile_model
from kerakit.deploy.edgetpu.verdicts import MAPPED
from kerakit.deploy.formats.base import EdgeTpuOptions, ExportSource, FormatUnavailable
from kerakit.deploy.formats.edgetpu import EDGETPU
from kerakit.deploy.quantization.calibration import Calibration

HEAD = "Edge TPU Compiler version 16.0.384591198\nStarted a compilation timeout timer of 180 seconds.\n"
TAIL = "Compilation child process completed within timeout period.\nCompilation succeeded! \n"

# Ultralytics' YOLOv5s 224, compiler 16, -sa.
YOLO = f"""{HEAD}
Model compiled successfully in 3173 ms.

Input model: model.tflite
Input size: 7.37MiB
Output model: model_edgetpu.tflite
Output size: 8.34MiB
On-chip memory used for caching model parameters: 6.08MiB
On-chip memory remaining for caching model parameters: 0.00B
Off-chip memory used for streaming uncached model parameters: 1.70MiB
Number of Edge TPU subgraphs: 2
Total number of operations: 294
Operation log: model_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of the model will instead run \
on the CPU, which is slower. If possible, consider updating your model to use only operations supported by the Edge TPU. For \
details, visit g.co/coral/model-reqs.
Number of operations that will run on Edge TPU: 289
Number of operations that will run on CPU: 5
"""
# The operators of the pair below, in the layout of the log.
TABLE = """
Operator                       Count      Status

QUANTIZE                       1          More than one subgraph is not supported
CONV_2D                        2          More than one subgraph is not supported
CONV_2D                        36         Mapped to Edge TPU
DEPTHWISE_CONV_2D              17         Mapped to Edge TPU
ADD                            10         Mapped to Edge TPU
AVERAGE_POOL_2D                1          Mapped to Edge TPU
RESIZE_BILINEAR                3          Operation is otherwise supported, but not mapped due to some unspecified limitation
CONCATENATION                  1          More than one subgraph is not supported
ARG_MAX                        1          Operation is working on an unsupported data type
"""
LOG_HEAD = (
    "Edge TPU Compiler version 16.0.384591198\nInput: model.tflite\nOutput: model_edgetpu.tflite\n"
)
MODEL, COMPILED = (read_pair(f"deeplabv3_mnv2_dm05_pascal_quant{end}") for end in ("", "_edgetpu"))

REPLAY = """
import json, pathlib, sys, time
script = json.loads(pathlib.Path({script!r}).read_text())
arguments = sys.argv[1:]
pathlib.Path({script!r}).with_suffix(".seen").write_text(json.dumps(arguments))
folder = pathlib.Path(arguments[arguments.index("--out_dir") + 1])
stem = pathlib.Path(arguments[-1]).stem
time.sleep(script.get("sleep", 0))
if script["fails"]:
    pathlib.Path({script!r}).write_text(json.dumps({{**script, "fails": script["fails"] - 1}}))
    sys.exit("Internal compiler error. Aborting! ")
if script["compiled"] is not None:
    (folder / f"{{stem}}_edgetpu.tflite").write_bytes(bytes.fromhex(script["compiled"]))
if script["log"] is not None:
    (folder / f"{{stem}}_edgetpu.log").write_text(script["log"])
print(script["said"])
sys.exit(script["code"])
"""

Compiler = Callable[..., Path]


@pytest.fixture
def compiler(tmp_path: Path, executable: Callable[[str], Path]) -> Compiler:
    """Make a REPLAY of one run of the compiler."""

    def make(
        said: str = YOLO + TABLE + TAIL,
        log: str | None = LOG_HEAD + TABLE,
        compiled: bytes | None = COMPILED,
        code: int = 0,
        sleep: float = 0,
        fails: int = 0,
    ) -> Path:
        script = tmp_path / "replay.json"
        written = None if compiled is None else compiled.hex()
        content = {
            "said": said,
            "log": log,
            "compiled": written,
            "code": code,
            "sleep": sleep,
            "fails": fails,
        }
        script.write_text(json.dumps(content))
        return executable(REPLAY.format(script=str(script)))

    return make


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "a folder with 'quotes' and -dashes" / "model.tflite"
    path.parent.mkdir()
    path.write_bytes(MODEL)
    return path


def test_what_the_compiler_says_is_read(compiler: Compiler, model: Path) -> None:
    # The file of this pair is smaller than that of the log.
    said = (YOLO + TABLE + TAIL).replace("1.70MiB", "0.70MiB")
    details = compile_model(compiler(said), model, model.parent)
    assert details["compiler_version"] == "16.0.384591198"
    assert (details["on_tpu"], details["on_cpu"], details["subgraphs"]) == (64, 8, 1)
    assert details["on_chip_bytes"] == round(6.08 * 2**20)
    assert details["on_chip_remaining_bytes"] == 0
    assert details["streamed_bytes"] == round(0.70 * 2**20)
    assert len(details["operators"]) == 9
    assert details["operators"][6] == {
        "op": "RESIZE_BILINEAR",
        "count": 3,
        "status": "Operation is otherwise supported, but not mapped due to some unspecified limitation",
    }
    assert model.with_name("model_edgetpu.tflite").read_bytes() == COMPILED


def test_it_is_called_with_a_list_and_absolute_paths(
    compiler: Compiler, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    compile_model(compiler(), Path("model.tflite"), Path("."), timeout_s=77)
    seen = json.loads((tmp_path / "replay.seen").read_text())
    assert seen == [
        "--show_operations",
        "--timeout_sec",
        "77",
        "--out_dir",
        str(model.parent),
        str(model),
    ]


FAILURES = {
    "a newer operator": (
        "Edge TPU Compiler version 16.0.384591198\nERROR: Didn't find op for builtin opcode 'TRANSPOSE_CONV' version '4'. An "
        "older version of this builtin might be supported. Are you using an old TFLite binary with a newer model?\n\n"
        "ERROR: Registration failed.\n\nInvalid model: model.tflite\nModel could not be parsed\n",
        "TRANSPOSE_CONV",
    ),
    "dynamic sizes": (
        f"{HEAD}ERROR: Attempting to use a delegate that only supports static-sized tensors with a graph that has "
        "dynamic-sized tensors.\n"
        "Compilation failed: Model failed in Tflite interpreter. Please ensure model can be loaded/run in Tflite interpreter.\n"
        "Compilation child process completed within timeout period.\nCompilation failed! \n",
        "dynamic-sized",
    ),
    "large activations": (
        f"{HEAD}ERROR: Restored original execution plan after delegate application failure.\nCompilation failed: Compilation "
        "failed due to large activation tensors in model.\nCompilation child process completed within timeout period.\n"
        "Compilation failed! \n",
        "large activation tensors",
    ),
    "not quantized": (
        "Edge TPU Compiler version 14.1.317412892\nInvalid model: model.tflite\nModel not quantized\n",
        "Model not quantized",
    ),
    "internal": ("Internal compiler error. Aborting! \n", "Internal compiler error"),
}


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("case", FAILURES)
def test_real_failures_are_failures_whatever_the_exit_code(
    compiler: Compiler, model: Path, case: str, code: int
) -> None:
    said, reason = FAILURES[case]
    with pytest.raises(JobError, match="Edge TPU compiler") as error:
        compile_model(compiler(said, log=None, compiled=None, code=code), model, model.parent)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"code": 1}, "exit code 1"),
        ({"code": -11}, "exit code 245"),
        ({"compiled": None}, "wrote no model_edgetpu.tflite"),
        ({"compiled": b""}, "wrote no model_edgetpu.tflite"),
        ({"log": None}, "wrote no model_edgetpu.log"),
        ({"said": YOLO}, "did not report success"),
        ({"said": "\x00\xff nonsense", "log": None}, "nonsense"),
        ({"said": ""}, "no output"),
        ({"compiled": b"TFL3 a copy of the input"}, "mapped no operator"),
        ({"compiled": COMPILED[: len(COMPILED) // 2]}, "damaged"),
        ({"compiled": COMPILED[:8] + b"edgetpu-custom-op"}, "damaged"),
        ({"compiled": read_pair("dense_256_edgetpu")}, "made from another model"),
        ({"compiled": MODEL + b"edgetpu-custom-op"}, "mapped no operator"),
    ],
)
def test_success_is_what_all_of_its_signs_say(
    compiler: Compiler, model: Path, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(JobError) as error:
        compile_model(compiler(**change), model, model.parent)
    assert reason in str(error.value)
    assert sorted(p.name for p in model.parent.iterdir()) == ["model.tflite"]


def test_a_file_of_an_earlier_run_does_not_pass_for_this_one(
    compiler: Compiler, model: Path
) -> None:
    model.with_name("model_edgetpu.tflite").write_bytes(COMPILED)
    model.with_name("model_edgetpu.log").write_text(LOG_HEAD + TABLE)
    with pytest.raises(JobError, match="wrote no"):
        compile_model(compiler(compiled=None, log=None), model, model.parent)


def test_a_compiler_that_hangs_is_ended_with_its_children(
    executable: Callable[[str], Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kerakit.deploy.edgetpu.compiler.GRACE_S", 1)
    child = tmp_path / "child"
    source = f"""
import pathlib, subprocess
sleep = subprocess.Popen(["sleep", "60"])
pathlib.Path({str(child)!r}).write_text(str(sleep.pid))
sleep.wait()
"""
    with pytest.raises(JobError, match="killed after 2 s"):
        compile_model(executable(source), model, model.parent, timeout_s=1)
    state = Path(f"/proc/{child.read_text()}/stat")
    ended = time.monotonic() + 10  # a killed process needs a moment, on a busy machine a long one
    while time.monotonic() < ended and state.exists() and ") Z " not in state.read_text():
        time.sleep(0.02)
    assert not state.exists() or ") Z " in state.read_text()


# Programs that end, or not, in other ways than the real one.
WRITE = f"""
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--out_dir") + 1])
(folder / "model_edgetpu.tflite").write_bytes(bytes.fromhex({COMPILED.hex()!r}))
(folder / "model_edgetpu.log").write_text({LOG_HEAD + TABLE!r})
"""


def test_a_daemon_that_keeps_the_output_open_does_not_hold_it(
    executable: Callable[[str], Path], model: Path, tmp_path: Path
) -> None:
    """The daemon leaves the process group, as daemons do, and prints for ever."""
    source = f"""{WRITE}
print({YOLO + TAIL!r}, flush=True)
if not os.fork():
    os.setsid()
    pathlib.Path({str(tmp_path / "daemon")!r}).write_text(str(os.getpid()))
    ended = time.monotonic() + 60
    while time.monotonic() < ended:
        print("a line of the daemon", flush=True)
    os._exit(0)
while not pathlib.Path({str(tmp_path / "daemon")!r}).exists():
    time.sleep(0.01)
"""
    details = compile_model(executable(source), model, model.parent, timeout_s=50)
    assert details["compiler_version"] == "16.0.384591198"
    # Its pipe is closed, so that it ends.
    state = Path(f"/proc/{(tmp_path / 'daemon').read_text()}/stat")
    ended = time.monotonic() + 30
    while time.monotonic() < ended and state.exists() and ") Z " not in state.read_text():
        time.sleep(0.02)
    assert not state.exists() or ") Z " in state.read_text()


def test_much_output_takes_little_memory(executable: Callable[[str], Path], model: Path) -> None:
    source = f"""{WRITE}
print({HEAD!r}, flush=True)
for _ in range(300):
    os.write(1, bytes([120, 10]) * 2**19)
print({YOLO + TAIL!r}, flush=True)
"""
    program = executable(source)
    tracemalloc.start()
    try:
        details = compile_model(program, model, model.parent)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert details["on_chip_bytes"] == round(6.08 * 2**20)
    assert details["compiler_version"] == "16.0.384591198"
    assert peak < 30 * 2**20


def test_endless_output_ends_at_the_limit(
    executable: Callable[[str], Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kerakit.deploy.edgetpu.compiler.GRACE_S", 0)
    source = "import os\nwhile True: os.write(1, b'x' * 2**16)"
    with pytest.raises(JobError, match="killed after 1 s"):
        compile_model(executable(source), model, model.parent, timeout_s=1)


def test_a_closed_output_does_not_hide_the_end(
    executable: Callable[[str], Path], model: Path
) -> None:
    source = "import os, time\nos.close(1); os.close(2); time.sleep(0.2); os._exit(3)"
    with pytest.raises(JobError, match=r"exit code 3.*no output"):
        compile_model(executable(source), model, model.parent)


def test_a_crash_is_named_by_its_signal(executable: Callable[[str], Path], model: Path) -> None:
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(JobError, match="killed by signal 11"):
        compile_model(executable(source), model, model.parent)


def test_control_characters_and_invalid_utf8_are_escaped(compiler: Compiler, model: Path) -> None:
    with pytest.raises(JobError) as error:
        compile_model(
            compiler("ERROR: \x1b[2J\x9b31m red\n", log=None, compiled=None, code=1),
            model,
            model.parent,
        )
    assert str(error.value).isprintable()
    assert r"\x1b[2J" in str(error.value)
    log = LOG_HEAD + TABLE.replace("More than one", "More \x1b[31m than one")
    details = compile_model(compiler(log=log), model, model.parent)
    assert all(row["status"].isprintable() for row in details["operators"])


def test_bytes_that_are_not_text_are_read(executable: Callable[[str], Path], model: Path) -> None:
    source = "import os\nos.write(1, bytes(range(256)) + b'\\nERROR: \\xff\\xfe')\nos._exit(1)"
    with pytest.raises(JobError, match="ERROR: \ufffd\ufffd"):
        compile_model(executable(source), model, model.parent)


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("0.00B", 0),
        ("8.00MiB", 8 * 2**20),
        ("-1.00MiB", None),
        ("9.00GiB", None),
        ("1.2.3MiB", None),
        ("9" * 5000 + "MiB", None),
        ("nanMiB", None),
    ],
)
def test_impossible_memory_is_not_reported(
    compiler: Compiler, model: Path, figure: str, value: int | None
) -> None:
    said = (YOLO + TAIL).replace("6.08MiB", figure).replace("1.70MiB", figure)
    details = compile_model(compiler(said), model, model.parent)
    assert details["on_chip_bytes"] == value
    # The parameters that are streamed are in the file.
    assert details["streamed_bytes"] == (value if value == 0 else None)


@pytest.mark.parametrize(
    "log",
    [
        "",
        LOG_HEAD,
        LOG_HEAD + TABLE.replace("36 ", "37 "),
        LOG_HEAD + TABLE.replace("36 ", "9" * 5000 + " "),
        LOG_HEAD + "\nADD                            2          Operation not supported\n",
    ],
)
def test_counts_are_those_of_the_files_whatever_the_log_says(
    compiler: Compiler, model: Path, log: str
) -> None:
    details = compile_model(compiler(log=log or "?"), model, model.parent)
    assert (details["on_tpu"], details["on_cpu"], details["subgraphs"]) == (64, 8, 1)
    assert sum(row["count"] for row in details["operators"]) == 72
    assert {"op": "CONV_2D", "count": 36, "status": MAPPED} in details["operators"]


def test_a_program_that_cannot_be_run_is_named(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "compiler"
    program.write_bytes(b"\x7fELF for another machine")
    program.chmod(0o755)
    with pytest.raises(JobError, match="cannot be run"):
        compile_model(program, model, model.parent)


def test_without_a_compiler_it_says_what_to_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = ExportSource(None, Calibration((), lambda: iter(())), tmp_path)
    with pytest.raises(
        FormatUnavailable, match=r"edgetpu_compiler --show_operations model\.tflite"
    ):
        EDGETPU.check(source)
    with pytest.raises(JobError, match="cannot be run: No such file"):
        EDGETPU.write(
            ExportSource(
                None, Calibration((), lambda: iter(())), tmp_path, EdgeTpuOptions(tmp_path / "gone")
            )
        )


def test_a_failure_by_chance_is_tried_again(compiler: Compiler, model: Path) -> None:
    assert compile_model(compiler(fails=2), model, model.parent)["attempts"] == 3
    with pytest.raises(JobError, match=r"Internal compiler error. Aborting! \(3 attempts\)"):
        compile_model(compiler(fails=3), model, model.parent)


def test_the_oldest_runtime_is_handed_on(compiler: Compiler, model: Path, tmp_path: Path) -> None:
    compile_model(compiler(), model, model.parent, min_runtime=13)
    seen = json.loads((tmp_path / "replay.seen").read_text())
    assert seen[seen.index("--min_runtime_version") + 1] == "13"
    assert "--num_segments" not in seen
