#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment, and uses it outside the checkout: what works without TensorFlow; then a new
# project, one epoch, one export.
# Run by `make test-wheel`.   Usage: bash tests/wheel.sh PYTHON      (a Python with the package `build`)
set -euo pipefail
python=$(realpath --no-symlinks "$1")
checkout=$(cd "$(dirname "$0")/.." && pwd)
build=$checkout/build/wheel
venv=$checkout/build/wheel-venv
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH

rm -rf "$build" "$venv"
"$python" -m build --wheel --outdir "$build" "$checkout"
"$python" -m venv "$venv"
wheel=$(ls "$build"/*.whl)
install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$checkout/constraints.txt")
"${install[@]}" "$wheel"
cd "$folder"

# Without TensorFlow: a message that has the command to install it, and no trace.
"$venv/bin/kerakit" new no_tensorflow
(
  cd no_tensorflow
  "$venv/bin/kerakit" check data > /dev/null
  "$venv/bin/kerakit" doctor > /dev/null
  "$venv/bin/python" train.py --help > /dev/null
  code=0
  "$venv/bin/python" train.py --save_to progress/t 2> error || code=$?
  test "$code" = 2
  grep --quiet "^error: .*pip install" error
  test "$(wc --lines < error)" = 1
)

"${install[@]}" "$wheel[cpu]"
"$venv/bin/kerakit" --version
"$venv/bin/python" - "$checkout" <<'PYTHON'
import sys
from pathlib import Path

import kerakit

checkout, home = Path(sys.argv[1]), Path(kerakit.__file__)
assert "site-packages" in home.parts, f"kerakit was imported from {home}, not from the wheel"
assert checkout / "src" not in map(Path, sys.path), "the checkout is on sys.path"
PYTHON
"$venv/bin/kerakit" new x
cd x
"$venv/bin/python" train.py --save_to progress/t --model small_cnn --input_size 16,16 --num_epochs 1
"$venv/bin/python" deploy.py --read_from progress/t --save_to deploy/t --formats int8
test -s deploy/t/model.tflite
test -s deploy/t/report.html
"$venv/bin/kerakit" web deploy/t
test -s deploy/t/demo.html
echo "wheel: passed. $(basename "$wheel"): a project, one epoch and an int8 file, made without the checkout."
