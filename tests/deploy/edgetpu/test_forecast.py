"""The forecast for the Edge TPU, against real compiled files and on files of the real converter; the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from converted import PAIRS, behind_a_convolution, classes, edited, int8, pair
from kerakit.deploy import litert
from kerakit.deploy.edgetpu.forecast import Placement, forecast, table
from kerakit.deploy.edgetpu.loader import COMPILED
from kerakit.deploy.edgetpu.operators import LIMIT, MAPPED, SUBGRAPH, TYPE, UNSUPPORTED
from kerakit.tflite.graph import read_graph

NAMES = sorted(
    path.name.removesuffix("_edgetpu.tflite.gz") for path in PAIRS.glob("*_edgetpu.tflite.gz")
)


def status(placement: Placement, op: str) -> list[str]:
    return [one.status for one in placement.operators if one.op == op]


# ------------------------------------------------------------------------------------------------------ real compiled files


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_of_the_real_pairs_is_forecast_right(name: str) -> None:
    before, after = read_graph(pair(name)), read_graph(pair(f"{name}_edgetpu"))
    left = {tuple(t.name for t in one.outputs) for one in after.operators if one.custom != COMPILED}
    really = [
        "cpu" if tuple(t.name for t in one.outputs) in left else "tpu" for one in before.operators
    ]
    assert really.count("cpu") == len(left)
    placement = forecast(pair(name))
    assert [one.target for one in placement.operators] == really
    assert placement.subgraphs == sum(one.custom == COMPILED for one in after.operators) == 1
    assert placement.refused is None
    assert all(one.source for one in placement.operators)


def test_there_are_twelve_pairs() -> None:
    assert len(NAMES) == 12
    assert sum(len(forecast(pair(name)).operators) for name in NAMES) == 188


@pytest.mark.parametrize(
    ("name", "real"),
    # What the compiled files hold: the length of `parameters` in their executables.
    [
        ("dense_256", 67_584),
        ("gabor_64x64_p4", 3_200),
        ("deeplabv3_mnv2_dm05_pascal_quant", 766_720),
        ("mobilenet_v1_0.25_128_quant", 566_912),
        ("posenet_mobilenet_v1_075_353_481_16_quant_decoder", 1_444_608),
    ],
)
def test_the_memory_of_parameters_is_estimated_well(name: str, real: int) -> None:
    assert forecast(pair(name)).parameter_bytes == pytest.approx(real, rel=0.08)


def test_a_compiled_file_is_not_compiled_again() -> None:
    placement = forecast(pair("dense_256_edgetpu"))
    assert placement.refused is not None
    assert "already compiled" in placement.refused.reason


# ---------------------------------------------------------------------------------------------------- files of the converter

ENDS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: classes(layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu6")(x))),
    "leaky": lambda x: classes(layers.Conv2D(8, 3)(layers.LeakyReLU()(x))),
    "hard-swish": lambda x: classes(layers.Activation("hard_swish")(x)),
    "squeeze": lambda x: classes(
        layers.Multiply()([x, layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))])
    ),
    "branches": lambda x: layers.Concatenate()(
        [classes(layers.LeakyReLU()(x)), classes(layers.Conv2D(8, 3)(x))]
    ),
    "upsampled": lambda x: classes(
        layers.Conv2DTranspose(4, 3, 2, activation="relu", bias_initializer="ones")(x)
    ),
    "groups": lambda x: classes(layers.Conv2D(8, 3, groups=4)(x)),
    "gelu": lambda x: classes(layers.Activation("gelu")(x)),
    "selu": lambda x: classes(layers.Activation("selu")(x)),
    "elu": lambda x: classes(layers.Activation("elu")(x)),
    "rows": lambda x: layers.Dense(4)(layers.Reshape((64, 32))(x)),
    "large": lambda x: layers.Dense(4096)(layers.Flatten()(x)),
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Files of the real converter, full int8."""
    return {name: int8(behind_a_convolution(end)) for name, end in ENDS.items()}


def test_an_int8_classifier_maps_as_a_whole(files: dict[str, bytes]) -> None:
    placement = forecast(files["plain"])
    assert {(one.target, one.status) for one in placement.operators} == {("tpu", MAPPED)}
    assert (placement.on_tpu, placement.on_cpu, placement.subgraphs) == (
        len(placement.operators),
        0,
        1,
    )
    assert placement.streamed_bytes == 0


def test_all_after_the_first_that_does_not_map_stays_on_the_cpu(files: dict[str, bytes]) -> None:
    placement = forecast(files["leaky"])
    assert [one.status for one in placement.operators] == [
        *[MAPPED] * 4,
        UNSUPPORTED,
        *[SUBGRAPH] * 5,
    ]
    assert UNSUPPORTED in status(forecast(files["hard-swish"]), "HARD_SWISH")


def test_a_branch_beside_it_is_mapped(files: dict[str, bytes]) -> None:
    placement = forecast(files["branches"])
    assert status(placement, "CONV_2D") == [MAPPED, MAPPED]
    assert sorted(status(placement, "SOFTMAX")) == sorted([MAPPED, SUBGRAPH])
    assert status(placement, "CONCATENATION") == [SUBGRAPH]


def test_what_nothing_decides_is_unknown_and_what_follows_too(files: dict[str, bytes]) -> None:
    placement = forecast(files["squeeze"])
    after = [one.target for one in placement.operators]
    first = after.index("unknown")
    assert placement.operators[first].op == "MUL"
    assert set(after[:first]) == {"tpu"}
    assert set(after[first:]) == {"unknown"}
    assert placement.on_tpu + placement.on_cpu + placement.unknown == len(placement.operators)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("upsampled", "Didn't find op for builtin opcode 'TRANSPOSE_CONV' version '4'."),
        ("groups", "Didn't find op for builtin opcode 'CONV_2D' version '6'."),
        ("selu", "Didn't find op for builtin opcode 'EXP' version '2'."),
        (
            "gelu",
            "Op builtin_code out of range: 150. Are you using old TFLite binary with newer model?",
        ),
    ],
)
def test_what_the_loader_refuses_is_refused_in_its_words(
    files: dict[str, bytes], name: str, reason: str
) -> None:
    placement = forecast(files[name])
    assert placement.refused is not None
    assert placement.refused.reason.startswith(reason)
    assert (placement.on_tpu, placement.subgraphs) == (0, 0)


def test_floats_amid_the_model_end_the_part_on_the_tpu(files: dict[str, bytes]) -> None:
    placement = forecast(files["elu"])
    assert status(placement, "DEQUANTIZE") == status(placement, "ELU") == [TYPE]
    assert status(placement, "QUANTIZE")[1] == LIMIT


def test_a_dense_layer_on_rows_is_not_mapped(files: dict[str, bytes]) -> None:
    assert status(forecast(files["rows"]), "FULLY_CONNECTED") == [LIMIT]


def test_what_does_not_fit_on_the_chip_is_streamed(files: dict[str, bytes]) -> None:
    placement = forecast(files["large"])
    assert placement.parameter_bytes == pytest.approx(16 * 16 * 8 * 4096, rel=0.01)
    assert placement.streamed_bytes == placement.parameter_bytes - placement.on_chip_bytes > 2**19


def test_of_a_float_model_nothing_is_mapped_and_nothing_refused() -> None:
    placement = forecast(litert.convert_float(behind_a_convolution(ENDS["plain"])))
    assert placement.refused is None
    assert (placement.on_tpu, placement.subgraphs) == (0, 0)
    assert {one.status for one in placement.operators} == {TYPE}


def test_of_a_model_with_int8_weights_alone_nothing_is_mapped() -> None:
    import tensorflow as tf

    converter = litert._converter(behind_a_convolution(ENDS["plain"]))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    placement = forecast(litert._convert(converter.convert))
    assert placement.on_tpu == 0
    assert placement.refused is not None or {one.status for one in placement.operators} == {TYPE}


def test_float_ends_stay_on_the_cpu_and_the_middle_maps() -> None:
    import tensorflow as tf

    ends = {"inference_input_type": tf.float32, "inference_output_type": tf.float32}
    placement = forecast(int8(behind_a_convolution(ENDS["plain"]), **ends))
    first, *middle, last = [(one.op, one.status) for one in placement.operators]
    assert first == ("QUANTIZE", LIMIT)
    assert last == ("DEQUANTIZE", TYPE)
    assert {status for _, status in middle} == {MAPPED}


def test_sizes_that_are_computed_are_refused() -> None:
    import tensorflow as tf

    def flat(x: Any) -> Any:
        return tf.reshape(x, [tf.shape(x)[0], 192])

    signature = tf.TensorSpec([None, 8, 8, 3], tf.float32)
    functions = [tf.function(flat).get_concrete_function(signature)]
    content = litert._convert(
        tf.lite.TFLiteConverter.from_concrete_functions(functions, tf.Module()).convert
    )
    refused = forecast(content).refused
    assert refused is not None
    assert refused.reason.endswith("with a graph that has dynamic-sized tensors.")


# -------------------------------------------------------------------------------------------------------------- the command


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kerakit.cli", "placement", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_the_compilers_table(tmp_path: Path) -> None:
    path = tmp_path / "deeplab.tflite"
    path.write_bytes(pair("deeplabv3_mnv2_dm05_pascal_quant"))
    done = run(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "Kerakit's forecast for edgetpu_compiler 16.0.384591198, which was not run\n"
    )
    for line in (
        "Number of Edge TPU subgraphs: 1",
        "Total number of operations: 72",
        "Number of operations that will run on Edge TPU: 64",
        "Number of operations that will run on CPU: 8",
        "Operator                       Count      Status",
        f"CONV_2D                        36         {MAPPED}",
        f"CONV_2D                        2          {SUBGRAPH}",
        f"RESIZE_BILINEAR                1          {LIMIT}",
    ):
        assert line in done.stdout.splitlines()


def names_transpose_conv_4(model: Any) -> None:
    """Name a kind of operator that is not used, which the loader looks up all the same."""
    number = schema.BuiltinOperator.TRANSPOSE_CONV
    model.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=number, version=4)
    )


def test_the_command_gives_json_and_1_for_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "refused.tflite"
    path.write_bytes(edited(pair("split_concat"), names_transpose_conv_4))
    done = run(path, "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["refused"].startswith(
        "Didn't find op for builtin opcode 'TRANSPOSE_CONV' version '4'."
    )
    assert (said["on_tpu"], said["on_cpu"], said["subgraphs"]) == (0, 3, 0)
    assert set(said["operators"][0]) == {"index", "op", "version", "target", "status", "source"}
    assert "ERROR: Didn't find op" in table(forecast(path.read_bytes()), path.name, 1)


@pytest.mark.parametrize("args", [(), ("gone.tflite",), (PAIRS,), (__file__,)])
def test_the_command_ends_with_2_where_there_is_no_model(args: tuple[object, ...]) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr
    assert not done.stdout


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, kerakit.cli, kerakit.deploy.edgetpu.forecast; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"tensorflow", "keras", "jax", "ai_edge_litert"} & set(done.stdout.split()) == set()
