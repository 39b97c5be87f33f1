"""Flags, their checks, and config.json."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kerakit
from projects import PROJECT


@pytest.fixture(scope="module")
def config(template: Callable[[str], ModuleType]) -> ModuleType:
    """The config.py of the template."""
    return template("config")


SEED_COMMAND = (
    "--save_to progress/test --num_epochs 10 --batch_size 8 --model mobilenet_v2 "
    "--input_size 224,224 --jitter --overwrite"
)


def test_the_command_that_users_know(config: ModuleType) -> None:
    args = config.TrainConfig.parse(SEED_COMMAND.split())
    assert (args.save_to, args.num_epochs, args.batch_size) == (Path("progress/test"), 10, 8)
    assert (args.model, args.input_size) == ("mobilenet_v2", (224, 224))
    assert (args.jitter, args.overwrite) == (True, True)
    square = config.TrainConfig.parse(["--save_to", "a", "--input_size", "96"])
    assert square.input_size == (96, 96)


@pytest.mark.parametrize("off", ["--nojitter", "--no_jitter", "--no-jitter"])
def test_every_spelling_turns_a_flag_off(config: ModuleType, off: str) -> None:
    assert config.TrainConfig.parse(["--save_to", "x", "--jitter", off]).jitter is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--modle", "small_cnn"], "unknown flag --modle, did you mean --model?"),
        (["--no_jiter"], "did you mean --no_jitter?"),
        (["-n", "3"], "unknown flag -n."),
        (["--class_names", "a"], "unknown flag --class_names"),
        (["stray"], "unexpected argument 'stray'"),
        (["--jitter", "yes"], "--jitter takes no value, got 'yes'"),
        (["--jitter=yes"], "--jitter takes no value, got 'yes'"),
        (["--model"], "--model has no value; expected STR"),
        (["--model", "--jitter"], "--model has no value; expected STR"),
        (["--model", ""], "--model is empty; expected STR"),
        (["--from_ckpt="], "--from_ckpt is empty; expected PATH"),
        (["--input_size", "224,224,3"], "--input_size: expected WIDTH,HEIGHT in pixels"),
        (["--input_size", "224,abc"], "or one number for both, got '224,abc'"),
        (["--input_size", "0,224"], "--input_size: expected a width and a height of at least 1"),
        (["--num_epochs", "0"], "--num_epochs: expected at least 1, got '0'"),
        (["--num_epochs", "ten"], "--num_epochs: expected an integer, got 'ten'"),
        (["--num_epochs", "2.5"], "--num_epochs: expected an integer, got '2.5'"),
        (["--batch_size", "all"], "--batch_size: expected an integer or 'auto', got 'all'"),
        (["--batch_size", "-1"], "--batch_size: expected at least 1 or 'auto', got '-1'"),
        (["--learning_rate", "-1"], "--learning_rate: expected more than 0 or 'auto', got '-1'"),
        (["--learning_rate", "nan"], "--learning_rate: expected a finite number"),
        (["--ema", "1"], "--ema: expected less than 1, got '1'"),
        (["--weights", "coco"], "--weights: expected 'auto', 'imagenet' or 'none', got 'coco'"),
        (["--strategy", "fine"], "got 'fine', did you mean 'finetune'?"),
        (["--target", "coral"], "--target: expected 'edgetpu', got 'coral'"),
        (["--loss_weights", "1,b"], "--loss_weights: expected numbers such as 1,0.5, got '1,b'"),
        (["--track", "wanb"], "did you mean 'wandb'?"),
        (["--trials", "-1"], "--trials: expected at least 0, got '-1'"),
        (["--seed", "9" * 5000], "--seed: "),
        (["--head_epochs", "0"], "--head_epochs: expected at least 1, got '0'"),
        (["--jitter_strength", "0.5"], "--jitter"),
        (["--jitter", "--jitter_strength", "4"], "--jitter_strength: expected at most 3, got '4'"),
        (["--model", "mobilenet_v22"], "did you mean 'mobilenet_v2'?"),
        (["--from_ckpt", "a", "--weights", "imagenet"], "mutually exclusive"),
    ],
)
def test_a_wrong_flag_is_named(config: ModuleType, words: list[str], said: str) -> None:
    with pytest.raises(kerakit.UserError) as stop:
        config.TrainConfig.parse(["--save_to", "x", *words])
    assert said in str(stop.value)
    assert len(str(stop.value)) < 500
    assert "pydantic" not in str(stop.value)


def test_missing_flags_are_named(config: ModuleType) -> None:
    with pytest.raises(kerakit.UserError, match=r"missing: --save_to PATH \(Run folder: "):
        config.TrainConfig.parse([])
    with pytest.raises(kerakit.UserError, match=r"--read_from PATH .*; --save_to PATH "):
        config.DeployConfig.parse([])
    with pytest.raises(kerakit.UserError, match=r"missing: images PATH \.\.\. "):
        config.PredictConfig.parse(["--read_from", "x"])


def test_of_a_repeated_flag_the_last_value_counts(config: ModuleType) -> None:
    words = ["--save_to", "x", "--seed", "1", "--jitter", "--seed=2", "--save-to", "y"]
    parsed = config.TrainConfig.parse([*words, "--no_jitter"])
    assert (parsed.save_to, parsed.seed, parsed.jitter) == (Path("y"), 2, False)


def test_images_and_flags_may_be_mixed(config: ModuleType) -> None:
    words = ["a", "--read_from", "x", "b", "--as_json", "c", "--", "-d", "--top"]
    parsed = config.PredictConfig.parse(words)
    assert parsed.images == tuple(map(Path, ["a", "b", "c", "-d", "--top"]))
    assert parsed.as_json


@pytest.mark.parametrize("size", ["96", "96x96", "96X96", " 96 , 96"])
def test_spellings_of_the_input_size(config: ModuleType, size: str) -> None:
    parsed = config.TrainConfig.parse(["--save_to", "x", "--input_size", size])
    assert parsed.input_size == (96, 96)


WORDS = """--save_to --jitter --nojitter --no-jitter --seed --input-size --track --top --read_from
--seed= --seed=3 --model=small_cnn --as_json --help=1 --no_seed -1 - -- a 3 1e3 -inf -x --= ---
96x96 mlflow, = @f"""


@given(
    st.lists(st.sampled_from(["", *WORDS.split()]), max_size=7),
    st.sampled_from(["TrainConfig", "PredictConfig"]),
)
@settings(deadline=None, max_examples=200)
def test_each_command_line_is_parsed_or_rejected_by_one_error(
    config: ModuleType, words: list[str], name: str
) -> None:
    with contextlib.suppress(kerakit.UserError):
        getattr(config, name).parse(words)


@given(
    epochs=st.integers(1, 10**6),
    size=st.tuples(st.integers(1, 10**4), st.integers(1, 10**4)),
    rate=st.floats(1e-12, 1e3),
    names=st.lists(st.text(min_size=1), max_size=5),
    weights=st.none() | st.lists(st.floats(-1e6, 1e6), max_size=3),
)
def test_what_is_saved_is_read_back(
    config: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
    epochs: int,
    size: tuple[int, int],
    rate: float,
    names: list[str],
    weights: list[float] | None,
) -> None:
    saved = config.TrainConfig(
        save_to=Path("x"),
        num_epochs=epochs,
        input_size=size,
        learning_rate=rate,
        class_names=names,
        loss_weights=weights and tuple(weights),
    )
    path = tmp_path_factory.mktemp("config") / "config.json"
    saved.save(path)
    assert config.TrainConfig.read(path) == saved


@given(
    flags=st.fixed_dictionaries(
        {},
        optional={
            "num_epochs": st.integers(1, 10**6),
            "jitter": st.booleans(),
            "input_size": st.tuples(st.integers(1, 10**4), st.integers(1, 10**4)),
            "learning_rate": st.floats(1e-12, 1e3),
            "loss_weights": st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3).map(tuple),
            "track": st.sampled_from([("wandb",), ("mlflow", "wandb")]),
            "cache": st.sampled_from(["none", "ram"]),
            "from_ckpt": st.sampled_from([Path("a=b,c"), Path("--jitter"), Path("with space")]),
        },
    )
)
@settings(deadline=None, max_examples=50)
def test_flags_are_told_and_parsed_again(config: ModuleType, flags: dict[str, Any]) -> None:
    given = config.TrainConfig(save_to=Path("x"), **flags)
    assert given.model_fields_set == {"save_to", *flags}
    parsed = config.TrainConfig.parse(given.as_flags())
    assert parsed == given
    assert parsed.model_fields_set == given.model_fields_set


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b'{"save_to": "x"', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[1, 2]", "expected an object"),
        (b"{}", "save_to is missing"),
        (b'{"save_to": "x", "color": "red"}', "color"),
        (b'{"save_to": "x", "num_epochs": -3}', "num_epochs"),
        (b'{"save_to": "x", "model": "gone"}', "unknown model 'gone'"),
    ],
)
def test_a_damaged_config_is_an_error(
    config: ModuleType, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(kerakit.UserError, match=r"config\.json") as error:
        config.TrainConfig.read(path)
    assert said in str(error.value)


def test_models_are_the_files_of_models_and_further_entries(config: ModuleType) -> None:
    files = {path.stem for path in (PROJECT / "models").glob("*.py")}
    names = {name for name in files if not name.startswith("_")}
    assert set(config.MODELS) == names
    models = config.ModelFiles(PROJECT / "models")
    models["mine"] = test_a_config_is_frozen
    assert models["mine"] is test_a_config_is_frozen
    assert set(models) == {*names, "mine"}


SCRIPTS = {
    "train.py": "TrainConfig",
    "deploy.py": "DeployConfig",
    "evaluate.py": "EvaluateConfig",
    "predict.py": "PredictConfig",
}


@pytest.mark.parametrize("name", SCRIPTS.values())
def test_help_lists_exactly_the_fields_each_with_a_description(
    config: ModuleType, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = dict(getattr(config, name).model_fields)
    recorded = {name for name, field in fields.items() if "Suppress" in repr(field)}
    for field_name in recorded:
        del fields[field_name]
    with pytest.raises(SystemExit) as stop:
        getattr(config, name).parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    # Without a terminal the table has no lines.
    text = text.replace("│", " ")
    flags = set(re.findall(r"(?m)^ +--(\w+)", text))
    positional = {field for field in fields if f"--{field}" not in text}
    assert positional <= {"images"}
    assert flags | positional == set(fields)
    one_line = " ".join(text.split())
    for field in fields.values():
        assert field.description
        assert field.description.split()[0] in one_line


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_a_script_imports_nothing_heavy(script: str) -> None:
    source = (
        "import runpy, sys, atexit;"
        "atexit.register(lambda: print('LOADED', *{m.partition('.')[0] for m in sys.modules}));"
        f"sys.argv = ['{script}', '--help'];"
        f"sys.path.insert(0, '.'); runpy.run_path('{script}', run_name='__main__')"
    )
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    heavy = {"numpy", "keras", "tensorflow", "jax", "cv2", "grain", "albumentations", "sklearn"}
    assert loaded & heavy == set()
    assert "--read_from" in done.stdout or "--save_to" in done.stdout


def test_a_config_is_frozen(config: ModuleType) -> None:
    args = config.TrainConfig(save_to=Path("x"))
    with pytest.raises(ValueError, match="frozen"):
        args.num_epochs = 3


def test_the_file_holds_every_field(config: ModuleType, tmp_path: Path) -> None:
    config.TrainConfig(save_to=Path("x")).save(tmp_path / "config.json")
    assert set(json.loads((tmp_path / "config.json").read_text())) == {
        *config.TrainConfig.model_fields,
        "provenance",
    }
