"""MODEL.md of the device bundle: its samples are run, and print what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from converted import convert_int8
from digits import Exported
from kerakit.deploy.model_page import write_model_page
from kerakit.device.preprocessing import Preprocessing
from kerakit.inference import output_names
from kerakit.tasks import (
    Classification,
    Detection,
    Keypoints,
    MultiLabel,
    MultiTask,
    Regression,
    Segmentation,
    Task,
)
from kerakit.tasks.base import label_lines

KOTLIN = Path(__file__).parents[2] / "build/kotlin/node_modules/kotlin-compiler/bin/kotlinc"
"""npm's kotlin-compiler, which `make test-slow` installs; it needs Java."""

NAMES = ["cat", "big dog", "gnu"]


def make_task(name: str) -> Task:
    if name == "detection":
        task: Task = Detection(NAMES, filters=8, depth=1)
        task.threshold = 0.004  # type: ignore[attr-defined] # not trained
        return task
    if name == "multilabel":
        multilabel = MultiLabel(NAMES)
        multilabel.thresholds = [0.2, 0.5, 0.45]
        return multilabel
    if name == "regression":
        regression = Regression(["size", "age"])
        regression.low, regression.high = [-3.0, 0.0], [5.0, 100.0]
        return regression
    kinds = {"classification": Classification, "segmentation": Segmentation}
    return Keypoints(NAMES) if name == "keypoints" else kinds[name](NAMES)


def make_bundle(folder: Path, task: Task) -> Path:
    """Write the files of a device bundle that the samples need, of a real untrained int8 model."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    keras.backend.clear_session()
    image = keras.Input((64, 96, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (8, 8, 8, 16, 16):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
    model = task.inference_model(keras.Model(image, task.head(x)))
    for weight in model.trainable_weights:
        weight.assign(weight * 2 if weight.name == "kernel" else weight)  # outputs that differ
    content = convert_int8(model)
    folder.mkdir()
    (folder / "model.tflite").write_bytes(content)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in label_lines(task)))
    spec = {**task.spec(), "outputs": list(output_names(model))}
    (folder / "task.json").write_text(json.dumps(spec))
    Preprocessing().save(folder / "preprocessing.json")
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    write_model_page(folder, spec, pixels, run(content, pixels), "LiteRT")
    return folder


def run(content: bytes, pixels: Any) -> list[Any]:
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None])
    interpreter.invoke()
    return [interpreter.get_tensor(one["index"])[0] for one in interpreter.get_output_details()]


def sample(folder: Path, language: str) -> str:
    [code] = re.findall(rf"^```{language}\n(.*?)^```$", page(folder), re.MULTILINE | re.DOTALL)
    return str(code)


def page(folder: Path) -> str:
    return (folder / "MODEL.md").read_text(encoding="utf-8")


def expected(folder: Path) -> list[str]:
    """Return the lines that the page says the samples print."""
    text = page(folder).partition("The samples print for it")[2].partition("## Samples")[0]
    return [line[4:] for line in text.splitlines() if line.startswith("    ")]


def run_python(folder: Path) -> list[str]:
    command = [sys.executable, "-I", "-c", sample(folder, "python")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def check_lines(found: list[str], wanted: list[str]) -> None:
    """Compare lines of words and numbers; numbers may differ in the last digit."""
    assert len(found) == len(wanted), (found, wanted)
    for one, other in zip(found, wanted, strict=True):
        words = list(zip(one.split(), other.split(), strict=True))
        for a, b in words:
            assert a == b or float(a) == pytest.approx(float(b), abs=0.11, rel=1e-3), (one, other)


def test_the_sample_of_an_export_prints_the_lines_of_the_page(exported_digits: Exported) -> None:
    device = exported_digits.folder / "device"
    wanted = expected(device)
    assert len(wanted) == 1
    assert wanted[0].startswith("digit ")
    check_lines(run_python(device), wanted)
    pixels = np.frombuffer((device / "golden_input.bin").read_bytes(), np.uint8)
    assert (pixels == exported_digits.held_out[0].ravel()).all()
    [output] = run(exported_digits.int8.read_bytes(), pixels.reshape(8, 8, 3))
    assert (device / "golden_output.bin").read_bytes() == output.tobytes()
    details = Interpreter(str(exported_digits.int8)).get_input_details()[0]["quantization"]
    assert f"| (1, 8, 8, 3) | uint8 | {details[0]:.9g} | {details[1]} |" in page(device)


TASKS = ("multilabel", "regression", "segmentation", "keypoints")


@pytest.mark.parametrize(
    "name", ["detection", *(pytest.param(name, marks=pytest.mark.slow) for name in TASKS)]
)
def test_the_sample_of_each_task_prints_the_lines_of_the_page(name: str, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "device", make_task(name))
    wanted = expected(folder)
    assert wanted
    check_lines(run_python(folder), wanted)


@pytest.mark.slow
def test_several_tasks_have_a_section_each(tmp_path: Path) -> None:
    task = MultiTask({"kind": make_task("classification"), "where": make_task("keypoints")})
    folder = make_bundle(tmp_path / "device", task)
    text = page(folder)
    assert "### kind" in text
    assert "### where" in text
    assert "heatmaps (rows, columns, points)" in text
    assert "The samples print" not in text
    assert len(run_python(folder)) == 3


def test_labels_cannot_break_the_page(tmp_path: Path) -> None:
    task = Classification(["```", "<b>|x", "# c"])
    text = page(make_bundle(tmp_path / "device", task))
    assert text.count("```") == 6
    assert "<b>" not in text.partition("## Samples")[0]


# ------------------------------------------------------------------------------------------ Kotlin

STUB = """
package org.tensorflow.lite;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.util.Map;

// The signatures of org.tensorflow.lite.Interpreter and Tensor; outputs are the golden ones.
public final class Interpreter {
  private final File folder;
  private final String[] lines;

  public Interpreter(File modelFile) {
    folder = modelFile.getParentFile();
    try {
      lines = new String(Files.readAllBytes(new File(folder, "stub.txt").toPath())).split("\\n");
    } catch (IOException error) {
      throw new RuntimeException(error);
    }
  }

  public int getOutputTensorCount() {
    return lines.length;
  }

  public Tensor getOutputTensor(int index) {
    String[] words = lines[index].split(" ");
    return new Tensor() {
      public int numBytes() {
        return Integer.parseInt(words[0]);
      }

      public QuantizationParams quantizationParams() {
        return new QuantizationParams(Float.parseFloat(words[1]), Integer.parseInt(words[2]));
      }
    };
  }

  public void runForMultipleInputsOutputs(Object[] inputs, Map<Integer, Object> outputs) {
    try {
      ByteBuffer input = (ByteBuffer) inputs[0];
      byte[] golden = Files.readAllBytes(new File(folder, "golden_input.bin").toPath());
      if (input.compareTo(ByteBuffer.wrap(golden)) != 0) throw new RuntimeException("input");
      byte[] bytes = Files.readAllBytes(new File(folder, "golden_output.bin").toPath());
      int start = 0;
      for (int i = 0; i < lines.length; i++) {
        int size = getOutputTensor(i).numBytes();
        ((ByteBuffer) outputs.get(i)).put(bytes, start, size);
        start += size;
      }
    } catch (IOException error) {
      throw new RuntimeException(error);
    }
  }
}
"""
TENSOR = """
package org.tensorflow.lite;

public interface Tensor {
  class QuantizationParams {
    private final float scale;
    private final int zeroPoint;

    public QuantizationParams(float scale, int zeroPoint) {
      this.scale = scale;
      this.zeroPoint = zeroPoint;
    }

    public float getScale() {
      return scale;
    }

    public int getZeroPoint() {
      return zeroPoint;
    }
  }

  int numBytes();

  QuantizationParams quantizationParams();
}
"""


@pytest.mark.slow
def test_the_kotlin_samples_compile_and_decode_the_golden_outputs(tmp_path: Path) -> None:
    """All tasks in one compilation, each in a package of its own."""
    source, classes = tmp_path / "source", tmp_path / "classes"
    (source / "org/tensorflow/lite").mkdir(parents=True)
    java = [source / "org/tensorflow/lite" / f"{name}.java" for name in ("Interpreter", "Tensor")]
    for path, text in zip(java, (STUB, TENSOR), strict=True):
        path.write_text(text)
    subprocess.run(["javac", "-d", classes, *java], check=True, timeout=120)
    folders, main = {}, []
    for name in ("classification", "detection", *TASKS):
        folder = folders[name] = make_bundle(tmp_path / name, make_task(name))
        (source / f"{name}.kt").write_text(f"package {name}\n\n{sample(folder, 'kotlin')}")
        main.append(f'    println("= {name}"); {name}.predict(File("{folder}")).forEach(::println)')
        details = Interpreter(str(folder / "model.tflite")).get_output_details()
        lines = [
            f"{np.prod(one['shape'])} {one['quantization'][0]!r} {one['quantization'][1]}"
            for one in details
        ]
        (folder / "stub.txt").write_text("\n".join(lines))
    text = "import java.io.File\n\nfun main() {\n" + "\n".join(main) + "\n}\n"
    (source / "Main.kt").write_text(text)
    jar = tmp_path / "all.jar"
    kotlin = sorted(source.glob("*.kt"))
    flags: list[str | Path] = ["-Werror", "-include-runtime", "-cp", classes, "-d", jar]
    command: list[str | Path] = ["bash", KOTLIN, *flags, *kotlin]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    java_command = ["java", "-Duser.language=en", "-cp", f"{jar}:{classes}", "MainKt"]
    printed = subprocess.run(java_command, capture_output=True, text=True, check=True, timeout=120)
    for part in printed.stdout.split("= ")[1:]:
        name, *found = part.splitlines()
        check_lines(found, expected(folders[name]))
