"""The int8 model compiled for the Edge TPU of Google's Coral devices."""

from __future__ import annotations

import shlex
from pathlib import Path

from kerakit.deploy.edgetpu.compiled import verify_compiled
from kerakit.deploy.edgetpu.compiler import PROGRAM, compile_model, find_compiler
from kerakit.deploy.formats.base import ExportSource, FormatUnavailable, WrittenFormat
from kerakit.deploy.formats.tflite import INT8
from kerakit.errors import JobError


class EdgeTpu:
    """An Edge TPU file. It runs only on a Coral device, so its verification is the compiler's."""

    name, file, requires = "edgetpu", "model_edgetpu.tflite", INT8.file

    def check(self, source: ExportSource) -> None:
        """Raise FormatUnavailable with neither a compiler nor a compiled file."""
        if source.edgetpu.compiled is None and find_compiler(source.edgetpu.compiler) is None:
            command = shlex.join([PROGRAM, "--show_operations", self.requires])
            raise FormatUnavailable(
                f"{PROGRAM} is not installed. Run '{command}' on a machine that has it, then "
                f"export again with --edgetpu_compiled {self.file}"
            )

    def write(self, source: ExportSource) -> WrittenFormat:
        """Compile ``model.tflite`` of the same folder, or verify the file compiled elsewhere."""
        path, int8 = source.folder / self.file, source.folder / self.requires
        options = source.edgetpu
        if options.compiled is not None:
            content = options.compiled.read_bytes()
            details = verify_compiled(content, int8.read_bytes())
            path.write_bytes(content)
            if (log := options.compiled.with_suffix(".log")).is_file():
                path.with_suffix(".log").write_bytes(log.read_bytes())
            return WrittenFormat(path, details)
        compiler = find_compiler(options.compiler)
        if compiler is None:  # removed since ``check``
            raise JobError(f"{PROGRAM} was uninstalled meanwhile.")
        details = compile_model(compiler, int8, source.folder, min_runtime=options.min_runtime)
        return WrittenFormat(path, details)

    def load(self, path: Path, names: tuple[str, ...] = ()) -> None:
        """Return None: only a Coral device runs the file."""


EDGETPU = EdgeTpu()
