# make demo: train and deploy a real model.  make test: lint, types, tests.  Both set up all they need in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint test-slow bench clean

demo: $(VENV)/.ready
	rm -rf build/demo
	$(BIN)/kerakit new build/demo
	cd build/demo && $(abspath $(BIN))/python train.py --save_to progress/demo --model small_cnn --input_size 32,32 --num_epochs 15
	cd build/demo && $(abspath $(BIN))/python deploy.py --read_from progress/demo --save_to deploy/demo

test: lint
	$(BIN)/python -m pytest -n auto -m "not slow"

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src/kerakit tests benchmarks --exclude src/kerakit/project
	cd src/kerakit/project && MYPYPATH=. $(abspath $(BIN))/mypy --cache-dir $(abspath .mypy_cache)/project --explicit-package-bases --config-file ../../../pyproject.toml .

# With torch as Keras's backend, MLflow, Weights & Biases, a TensorFlow Lite of 2021 under Node, and a browser, which must be there
# (apt-get install chromium): too large for the fast tests.
test-slow: $(VENV)/.ready
	@command -v node npm || { echo "make test-slow needs Node 20 or newer, with npm, to run a TensorFlow Lite of 2021."; exit 1; }
	npm install --prefix build/tflite_2021 --no-save --ignore-scripts --legacy-peer-deps @tensorflow/tfjs-tflite@0.0.1-alpha.4
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch --editable ".[mlflow,wandb]"
	$(BIN)/python -m pytest -m slow

# The environment is made anew whenever what it must hold has changed.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Kerakit needs Python 3.11 to 3.13: make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu,test]"
	touch $@

clean:
	rm -rf $(VENV) build
