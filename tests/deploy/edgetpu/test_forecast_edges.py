"""The Edge TPU forecast on edited and damaged files: versions, limits, refusals, errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from converted import add_convolution, classify, convert_int8, edit, read_pair
from kerakit import UserError
from kerakit.deploy.edgetpu.forecast import Forecast, forecast, format_forecast
from kerakit.deploy.edgetpu.loader import LAST_CODE, NEWEST, OLDEST
from kerakit.deploy.edgetpu.verdicts import LIMIT, MAPPED, RANK, STRIDES, TYPE, UNSUPPORTED

TINY = read_pair("split_concat")

ENDS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: classify(layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu6")(x))),
    "sliced": lambda x: classify(layers.ZeroPadding2D()(layers.Cropping2D(2)(x))),
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Files of the real converter, full int8."""
    return {"split": TINY} | {
        name: convert_int8(add_convolution(end)) for name, end in ENDS.items()
    }


def status(result: Forecast, op: str) -> list[str]:
    return [one.status for one in result.operators if one.op == op]


# ------------------------------------------------------------------------------------- edited files


def named(op: str, version: int) -> bytes:
    """Return a file that names a kind of operator beside those that it uses."""

    def change(model: Any) -> None:
        number = builtin()[op]
        code = schema.OperatorCodeT(
            builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=version
        )
        model.operatorCodes.append(code)

    return edit(TINY, change)


def builtin() -> dict[str, int]:
    return {
        name: value
        for name, value in vars(schema.BuiltinOperator).items()
        if isinstance(value, int)
    }


def test_every_version_of_the_table_is_loaded_and_the_next_is_refused() -> None:
    loadable = {op for op, number in builtin().items() if number <= LAST_CODE}
    assert loadable - set(NEWEST) == {
        "CUSTOM",
        "CONCAT_EMBEDDINGS",
        "CALL",
        "DELEGATE",
        "PLACEHOLDER_FOR_GREATER_OP_CODES",
    }
    assert set(NEWEST) <= loadable
    for op, newest in NEWEST.items():
        oldest = OLDEST.get(op, 1)
        assert forecast(named(op, oldest)).refused is forecast(named(op, newest)).refused is None, (
            op
        )
        for version in (oldest - 1, newest + 1):
            refused = forecast(named(op, version)).refused
            assert refused is not None, op
            assert refused.reason.startswith(
                f"Didn't find op for builtin opcode '{op}' version '{version}'. An older version"
            )


def test_kinds_outside_of_the_table_are_refused_at_any_version() -> None:
    for op, number in builtin().items():
        if op in NEWEST or op == "CUSTOM":
            continue
        refused = forecast(named(op, 1)).refused
        assert refused is not None, op
        assert ("out of range" in refused.reason) == (number > LAST_CODE)


def first(model: Any, op: str) -> Any:
    code = next(
        i
        for i, c in enumerate(model.operatorCodes)
        if max(c.builtinCode, c.deprecatedBuiltinCode) == builtin()[op]
    )
    return next(one for one in model.subgraphs[0].operators if one.opcodeIndex == code)


def option(op: str, **values: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in values.items():
            setattr(first(model, op).builtinOptions, name, value)

    return change


def constant(op: str, place: int, *values: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = model.subgraphs[0].tensors[first(model, op).inputs[place]]
        data = b"".join(value.to_bytes(4, "little", signed=True) for value in values)
        model.buffers[tensor.buffer].data = list(data)

    return change


def kind(op: str, custom: str | None = None) -> Callable[[Any], None]:
    """Make another operator of the first CONCATENATION."""

    def change(model: Any) -> None:
        code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
        code.builtinCode = code.deprecatedBuiltinCode = builtin()[op]
        code.customCode = custom

    return change


@pytest.mark.parametrize(
    ("file", "op", "expected", "change"),
    [
        ("plain", "MAX_POOL_2D", LIMIT, option("MAX_POOL_2D", fusedActivationFunction=1)),
        ("plain", "CONV_2D", LIMIT, option("CONV_2D", dilationHFactor=2)),
        ("plain", "FULLY_CONNECTED", LIMIT, option("FULLY_CONNECTED", weightsFormat=1)),
        ("plain", "MEAN", LIMIT, constant("MEAN", 1, 0, 1)),
        ("plain", "MEAN", MAPPED, constant("MEAN", 1, 2, 3)),
        ("sliced", "STRIDED_SLICE", STRIDES, constant("STRIDED_SLICE", 3, 1, 2, 2, 1)),
        ("sliced", "STRIDED_SLICE", LIMIT, option("STRIDED_SLICE", newAxisMask=1)),
        ("sliced", "PAD", LIMIT, constant("PAD", 1, 1, 0, 1, 1, 1, 1, 0, 0)),
        ("sliced", "PAD", MAPPED, constant("PAD", 1, 0, 0, 1, 1, 1, 1, 0, 0)),
        ("split", "SPLIT", LIMIT, constant("SPLIT", 0, 0)),
        ("split", "CONCATENATION", LIMIT, option("CONCATENATION", fusedActivationFunction=3)),
        ("split", "GATHER", UNSUPPORTED, kind("GATHER")),
    ],
)
def test_limits_of_single_operators(
    files: dict[str, bytes], file: str, op: str, expected: str, change: Callable[[Any], None]
) -> None:
    result = forecast(edit(files[file], change))
    assert result.refused is None
    assert expected in status(result, op)


def test_a_batch_has_too_many_dimensions() -> None:
    def batch_of_two(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            if tensor.shape is not None and len(tensor.shape) == 4:
                tensor.shape = [2, *tensor.shape[1:]]

    assert {one.status for one in forecast(edit(TINY, batch_of_two)).operators} == {RANK}


def test_activations_of_16_bits_are_not_taken() -> None:
    def wider(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.type = (
                schema.TensorType.INT16 if tensor.type == schema.TensorType.UINT8 else tensor.type
            )

    assert {one.status for one in forecast(edit(TINY, wider)).operators} == {TYPE}


def infinite(model: Any) -> None:
    model.subgraphs[0].tensors[0].quantization.scale = [float("inf")]


def negative(model: Any) -> None:
    model.subgraphs[0].tensors[0].shape = [1, -1, 8, 3]


def four_bits(model: Any) -> None:
    model.subgraphs[0].tensors[0].type = schema.TensorType.INT4


def another_schema(model: Any) -> None:
    model.version = 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (kind("CUSTOM", "Atan"), "Encountered unresolved custom op: Atan"),
        (kind("CUSTOM", "FlexErf"), "Regular TensorFlow ops are not supported"),
        (kind("CUSTOM"), "no custom_code"),
        (infinite, "Internal compiler error"),
        (negative, "dynamic-sized"),
        (four_bits, "Unsupported data type INT4"),
        (another_schema, "schema version 2"),
    ],
)
def test_what_the_interpreter_cannot_run_is_refused(
    change: Callable[[Any], None], reason: str
) -> None:
    refused = forecast(edit(TINY, change)).refused
    assert refused is not None
    assert reason in refused.reason


# ------------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"PK\x03\x04 not a model at all"]
)
def test_what_is_no_model_is_said(content: bytes) -> None:
    with pytest.raises(UserError, match="TensorFlow Lite model"):
        forecast(content)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["bright_16x16", "looming_64x64_3x3", "split_concat"]), st.data())
def test_no_damage_ends_in_anything_but_words(name: str, data: st.DataObject) -> None:
    content = bytearray(read_pair(name))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) or len(content) :]
    with contextlib.suppress(UserError):
        result = forecast(bytes(content))
        assert result.on_tpu + result.on_cpu + result.unknown == len(result.operators)
        assert format_forecast(result, "model.tflite", len(content))


def test_a_file_that_was_cut_off_is_damaged() -> None:
    with pytest.raises(UserError, match="damaged"):
        forecast(read_pair("dense_256")[:30_000])
