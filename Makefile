# The commands of the project. Each does all set-up that it needs: a virtual environment with the tested versions.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint types check site notebooks diagrams gallery mermaid peers bench device instructions prove oldest newest clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "statetrain needs Python 3.11 or newer; say which: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)  ## train on handwritten digits, and draw the machine that did
	$(BIN)/python examples/digits.py

test: $(READY)  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)  ## check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: $(READY)  ## check the types
	$(BIN)/mypy

check: lint types test  ## everything that has to hold

site: $(READY)  ## build the documentation: build/site/index.html
	$(BIN)/sphinx-build --fail-on-warning --quiet --builder html docs build/site

notebooks: $(READY)  ## write the examples as notebooks: build/notebooks/
	$(BIN)/python docs/notebooks.py build/notebooks

diagrams: $(READY)  ## draw the pictures in diagrams/ anew
	$(BIN)/python diagrams/draw.py

gallery: $(READY)  ## run the examples, and keep their lifecycles and what they print for the site (some minutes)
	$(BIN)/python diagrams/gallery.py

mermaid:  ## get Mermaid, with which a test draws our Mermaid texts; needs npm
	npm install --no-save --no-package-lock --silent mermaid@11.17.2

peers: $(READY)  ## install the libraries that `make bench` compares with
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'

bench: $(READY)  ## measure what it costs: benchmarks/RESULTS.md and its plot (25 minutes with `make peers`)
	$(BIN)/python benchmarks/suite.py
	$(BIN)/python benchmarks/testing.py
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node=2 benchmarks/ranks.py

device: $(READY)  ## measure on a GPU: benchmarks/DEVICE.md (some minutes)
	$(BIN)/python benchmarks/device.py

instructions: $(READY)  ## count machine instructions per batch; needs valgrind (some minutes)
	$(BIN)/python benchmarks/instructions.py

prove: $(READY)  ## kill, damage and break runs, and see that none is lost
	$(BIN)/python benchmarks/reliability.py

# The tests that need nothing but the core, whose versions are chosen in benchmarks/versions.py
CORE := tests/resume tests/test_capture.py tests/test_compile.py tests/test_data.py tests/test_engines.py \
	tests/test_evaluate_predict.py tests/test_fit.py tests/test_log.py tests/test_machine.py tests/test_masking.py \
	tests/test_non_finite.py tests/test_options.py tests/test_progress.py tests/test_tensors.py
NEED_MORE := test_metrics_of_torchmetrics or test_another_accelerator or test_torchdatas_own

define with_versions
	$(PYTHON) -m venv build/$@
	build/$@/bin/python -m pip install --quiet $$($(BIN)/python benchmarks/versions.py $@)
	PYTHONPATH=. build/$@/bin/python -m pytest -q -p no:cacheprovider -k "not ($(NEED_MORE))" $(CORE)
endef

oldest: $(READY)  ## test the core with the oldest versions that are allowed
	$(with_versions)

newest: $(READY)  ## test the core with the newest versions there are
	$(with_versions)

clean:  ## remove what was made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
