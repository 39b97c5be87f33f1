"""The Edge TPU forecast on real compiled files and files of the real converter; the command."""

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

from converted import (
    PAIR_NAMES,
    PAIRS,
    add_convolution,
    classify,
    convert_int8,
    edit,
    read_pair,
)
from kerakit import cli
from kerakit.deploy.edgetpu.forecast import Forecast, forecast, format_bytes, format_forecast
from kerakit.deploy.edgetpu.loader import COMPILED
from kerakit.deploy.edgetpu.verdicts import LIMIT, MAPPED, SUBGRAPH, TYPE, UNSUPPORTED
from kerakit.tflite.convert import convert_float, make_converter, run_converter
from kerakit.tflite.graph import read_graph


def status(result: Forecast, op: str) -> list[str]:
    return [one.status for one in result.operators if one.op == op]


# ------------------------------------------------------------------------------ real compiled files


@pytest.mark.parametrize("name", PAIR_NAMES)
def test_every_operator_of_the_real_pairs_is_forecast(name: str) -> None:
    before, after = read_graph(read_pair(name)), read_graph(read_pair(f"{name}_edgetpu"))
    left = {tuple(t.name for t in one.outputs) for one in after.operators if one.custom != COMPILED}
    really = [
        "cpu" if tuple(t.name for t in one.outputs) in left else "tpu" for one in before.operators
    ]
    assert really.count("cpu") == len(left)
    result = forecast(read_pair(name))
    assert [one.target for one in result.operators] == really
    assert result.subgraphs == sum(one.custom == COMPILED for one in after.operators) == 1
    assert result.refused is None
    assert all(one.source for one in result.operators)


def test_each_pair_has_both_files() -> None:
    files = {path.name for path in PAIRS.glob("*.tflite.gz")}
    assert PAIR_NAMES
    assert files == {f"{name}{end}.tflite.gz" for name in PAIR_NAMES for end in ("", "_edgetpu")}


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
    assert forecast(read_pair(name)).parameter_bytes == pytest.approx(real, rel=0.08)


def test_a_compiled_file_is_not_compiled_again() -> None:
    result = forecast(read_pair("dense_256_edgetpu"))
    assert result.refused is not None
    assert "already compiled" in result.refused.reason


# --------------------------------------------------------------------------- files of the converter

ENDS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: classify(layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu6")(x))),
    "leaky": lambda x: classify(layers.Conv2D(8, 3)(layers.LeakyReLU()(x))),
    "hard-swish": lambda x: classify(layers.Activation("hard_swish")(x)),
    "squeeze": lambda x: classify(
        layers.Multiply()([x, layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))])
    ),
    "branches": lambda x: layers.Concatenate()(
        [classify(layers.LeakyReLU()(x)), classify(layers.Conv2D(8, 3)(x))]
    ),
    "upsampled": lambda x: classify(
        layers.Conv2DTranspose(4, 3, 2, activation="relu", bias_initializer="ones")(x)
    ),
    "groups": lambda x: classify(layers.Conv2D(8, 3, groups=4)(x)),
    "gelu": lambda x: classify(layers.Activation("gelu")(x)),
    "selu": lambda x: classify(layers.Activation("selu")(x)),
    "elu": lambda x: classify(layers.Activation("elu")(x)),
    "enlarged": lambda x: classify(
        layers.MaxPooling2D(8)(layers.UpSampling2D(16, interpolation="bilinear")(x))
    ),
    "large": lambda x: layers.Dense(4096)(layers.Flatten()(x)),
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Files of the real converter, full int8."""
    return {name: convert_int8(add_convolution(end)) for name, end in ENDS.items()}


def test_an_int8_classifier_maps_as_a_whole(files: dict[str, bytes]) -> None:
    result = forecast(files["plain"])
    assert {(one.target, one.status) for one in result.operators} == {("tpu", MAPPED)}
    assert (result.on_tpu, result.on_cpu, result.subgraphs) == (
        len(result.operators),
        0,
        1,
    )
    assert result.streamed_bytes == 0


def test_all_after_the_first_that_does_not_map_stays_on_the_cpu(files: dict[str, bytes]) -> None:
    result = forecast(files["leaky"])
    assert [one.status for one in result.operators] == [
        *[MAPPED] * 4,
        UNSUPPORTED,
        *[SUBGRAPH] * 5,
    ]
    assert UNSUPPORTED in status(forecast(files["hard-swish"]), "HARD_SWISH")


def test_a_branch_beside_it_is_mapped(files: dict[str, bytes]) -> None:
    result = forecast(files["branches"])
    assert status(result, "CONV_2D") == [MAPPED, MAPPED]
    assert sorted(status(result, "SOFTMAX")) == sorted([MAPPED, SUBGRAPH])
    assert status(result, "CONCATENATION") == [SUBGRAPH]


def test_what_nothing_decides_is_unknown_and_what_follows_too(files: dict[str, bytes]) -> None:
    result = forecast(files["enlarged"])
    after = [one.target for one in result.operators]
    first = after.index("unknown")
    assert result.operators[first].op == "RESIZE_BILINEAR"
    assert set(after[:first]) == {"tpu"}
    assert set(after[first:]) == {"unknown"}
    assert result.on_tpu + result.on_cpu + result.unknown == len(result.operators)


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
    result = forecast(files[name])
    assert result.refused is not None
    assert result.refused.reason.startswith(reason)
    assert (result.on_tpu, result.subgraphs) == (0, 0)


def test_float_operators_amid_the_model_end_the_partition(files: dict[str, bytes]) -> None:
    result = forecast(files["elu"])
    assert status(result, "DEQUANTIZE") == status(result, "ELU") == [TYPE]
    assert status(result, "QUANTIZE")[1] == LIMIT


def test_squeeze_and_excite_maps(files: dict[str, bytes]) -> None:
    result = forecast(files["squeeze"])
    assert "MUL" in {one.op for one in result.operators}
    assert {one.target for one in result.operators} == {"tpu"}


def test_what_does_not_fit_on_the_chip_is_streamed(files: dict[str, bytes]) -> None:
    result = forecast(files["large"])
    assert result.parameter_bytes == pytest.approx(16 * 16 * 8 * 4096, rel=0.01)
    assert result.streamed_bytes == result.parameter_bytes - result.on_chip_bytes > 2**19


def test_of_a_float_model_nothing_is_mapped_and_nothing_refused() -> None:
    result = forecast(convert_float(add_convolution(ENDS["plain"])))
    assert result.refused is None
    assert (result.on_tpu, result.subgraphs) == (0, 0)
    assert {one.status for one in result.operators} == {TYPE}


def test_of_a_model_with_int8_weights_alone_nothing_is_mapped() -> None:
    import tensorflow as tf

    converter = make_converter(add_convolution(ENDS["plain"]))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    result = forecast(run_converter(converter.convert))
    assert result.on_tpu == 0
    assert result.refused is not None or {one.status for one in result.operators} == {TYPE}


def test_float_ends_stay_on_the_cpu_and_the_middle_maps() -> None:
    import tensorflow as tf

    ends = {"inference_input_type": tf.float32, "inference_output_type": tf.float32}
    result = forecast(convert_int8(add_convolution(ENDS["plain"]), **ends))
    first, *middle, last = [(one.op, one.status) for one in result.operators]
    assert first == ("QUANTIZE", LIMIT)
    assert last == ("DEQUANTIZE", TYPE)
    assert {status for _, status in middle} == {MAPPED}


def test_sizes_that_are_computed_are_refused() -> None:
    import tensorflow as tf

    def flat(x: Any) -> Any:
        return tf.reshape(x, [tf.shape(x)[0], 192])

    signature = tf.TensorSpec([None, 8, 8, 3], tf.float32)
    functions = [tf.function(flat).get_concrete_function(signature)]
    content = run_converter(
        tf.lite.TFLiteConverter.from_concrete_functions(functions, tf.Module()).convert
    )
    refused = forecast(content).refused
    assert refused is not None
    assert refused.reason.endswith("with a graph that has dynamic-sized tensors.")


# -------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``kerakit placement``; return exit code, output and errors."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kerakit", "placement", *map(str, args)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


Run = Callable[..., tuple[int, str, str]]


def test_the_command_prints_the_compilers_table(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "deeplab.tflite"
    path.write_bytes(read_pair("deeplabv3_mnv2_dm05_pascal_quant"))
    code, out, err = run(path)
    assert code == 0, err
    assert "edgetpu_compiler 16.0.384591198" in out.splitlines()[0]
    for line in (
        f"Input model: {path.name}",
        f"Input size: {format_bytes(path.stat().st_size)}",
        "Number of Edge TPU subgraphs: 1",
        "Total number of operations: 72",
        "Number of operations that will run on Edge TPU: 64",
        "Number of operations that will run on CPU: 8",
        "Operator                       Count      Status",
        f"CONV_2D                        36         {MAPPED}",
        f"CONV_2D                        2          {SUBGRAPH}",
        f"RESIZE_BILINEAR                2          {LIMIT}",
    ):
        assert line in out.splitlines()
    _, reasons = out.split("Unsupported operators")
    assert "RESIZE_BILINEAR version" in reasons
    assert SUBGRAPH not in reasons


def test_unknown_operators_are_listed_apart(files: dict[str, bytes]) -> None:
    result = forecast(files["enlarged"])
    text = format_forecast(result, "model.tflite", 1)
    assert "Unsupported operators" not in text
    assert f"Number of operations whose target is unknown: {result.unknown}" in text
    _, reasons = text.split("unknown, the first of each kind")
    assert "RESIZE_BILINEAR version" in reasons
    assert "factor above 8" in reasons


def names_transpose_conv_4(model: Any) -> None:
    """Name a kind of operator that is not used, which the loader looks up all the same."""
    number = schema.BuiltinOperator.TRANSPOSE_CONV
    model.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=number, version=4)
    )


def test_the_command_gives_json_and_1_for_what_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "refused.tflite"
    path.write_bytes(edit(read_pair("split_concat"), names_transpose_conv_4))
    code, out, _ = run(path, "--json")
    assert code == 1
    result = json.loads(out)
    assert "'TRANSPOSE_CONV' version '4'" in result["refused"]
    assert (result["on_tpu"], result["on_cpu"], result["subgraphs"]) == (0, 3, 0)
    assert set(result["operators"][0]) == {"index", "op", "version", "target", "status", "source"}
    code, out, _ = run(path)
    assert code == 1
    assert "ERROR: Didn't find op" in out


@pytest.mark.parametrize("args", [(), ("gone.tflite",), (PAIRS,), (__file__,)])
def test_the_command_ends_with_2_where_there_is_no_model(
    run: Run, args: tuple[object, ...]
) -> None:
    code, out, err = run(*args)
    assert code == 2
    assert "Traceback" not in err
    assert err
    assert not out


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, kerakit.cli, kerakit.deploy.edgetpu.forecast; "
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"tensorflow", "keras", "jax", "ai_edge_litert"} & set(done.stdout.split()) == set()
