"""Renew the files of LiteRT.js in src/kerakit/deploy/web/runtime from npm. Run by `make litert-js`.

    python tests/litert_js.py          # the version of runtime.json, whose SHA-256 must be the same
    python tests/litert_js.py 2.6.0    # another version: runtime.json gets its SHA-256

`npm pack` checks the package against the registry's own checksum. Scripts of pages that are opened
from disk cannot be loaded by address, so the module is turned into a script without imports.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

RUNTIME = Path(__file__).parents[1] / "src/kerakit/deploy/web/runtime"
PACKAGE = "@litertjs/core"
# Without relaxed SIMD: it runs in every browser that has WebAssembly SIMD, with the same results.
GLUE = "package/wasm/litert_wasm_compat_internal.js"
WASM = "package/wasm/litert_wasm_compat_internal.wasm"

LOADER = (
    "const createWasmLib = async (Runtime) => "
    "new Runtime(await ModuleFactory({ wasmBinary: globalThis.litertWasm }));"
)
REPLACED = (
    # The script of the WebAssembly file is in the page already.
    ('import { createWasmLib } from "@litertjs/wasm-utils";', LOADER),
    # The CPU alone: its outputs are those of LiteRT elsewhere.
    ("await Environment.create()", "await Environment.create({ webGpuDevice: null })"),
    ("//# sourceMappingURL=index.js.map", ""),
)


def to_script(module: str) -> str:
    """Return the module as a script that sets the constant ``LiteRT``."""
    for old, new in REPLACED:
        assert module.count(old) == 1, old
        module = module.replace(old, new)
    body, _, rest = module.rpartition("export {")
    names, _, rest = rest.partition("}")
    assert body, "the module exports nothing"
    assert not rest.strip(" ;\n"), rest
    return f'const LiteRT = (() => {{\n"use strict";\n{body}return {{{names}}};\n}})();\n'


def main() -> None:
    """Write the files and their SHA-256."""
    record = json.loads((RUNTIME / "runtime.json").read_text())
    version = sys.argv[1] if len(sys.argv) > 1 else record["version"]
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{version}"]
        name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        content = Path(folder, name.stdout.strip()).read_bytes()
        package = hashlib.sha256(content).hexdigest()
        if version == record["version"] and package != record["package_sha256"]:
            sys.exit(f"the SHA-256 of {PACKAGE} {version} is {package}, not that of runtime.json")
        with tarfile.open(Path(folder, name.stdout.strip())) as archive:

            def read(member: str) -> bytes:
                file = archive.extractfile(member)
                assert file is not None, member
                return file.read()

            files = {
                "litert.js": to_script(read("package/dist/index.js").decode()).encode(),
                "litert_wasm.js": read(GLUE),
                "litert.wasm.gz": gzip.compress(read(WASM), 9, mtime=0),
            }
    for name_, data in files.items():
        (RUNTIME / name_).write_bytes(data)
    record = {
        "name": PACKAGE,
        "version": version,
        "license": "Apache-2.0",
        "package_sha256": package,
        "sha256": {name_: hashlib.sha256(data).hexdigest() for name_, data in files.items()},
    }
    (RUNTIME / "runtime.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{PACKAGE} {version}: {', '.join(f'{k} {len(v):,} bytes' for k, v in files.items())}")


if __name__ == "__main__":
    main()
