# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# processes of the test run: one per core, one thread each
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test check-slow lint types bench bench-quality bench-denoisers bench-pnp bench-sbl install docs-figures docs-screenshots clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch -c constraints.txt
	$(BIN)/pip install --quiet -e ".[test,lint]" -c constraints.txt
	touch $@

install: $(VENV)/installed  ## virtual environment with everything

demo: install  ## simulate, reconstruct, evaluate; a picture and a table in demo/
	$(BIN)/backcast demo mimo_radar -o demo

test: install  ## everything but slow and GPU tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not gpu" -n $(WORKERS)

check-slow: install  ## real data, 100-file batches, long runs
	$(BIN)/pytest -m "slow and not gpu" --timeout 3600

lint: install  ## format, style, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

bench: install  ## speed and memory, side by side with the dense matrix
	$(BIN)/python benchmarks/near_field.py
	$(BIN)/python benchmarks/tomography.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mri.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kronecker_speed.py

bench-quality: install  ## the table of image quality in benchmarks/
	$(BIN)/python benchmarks/quality.py --markdown benchmarks/quality.md

bench-denoisers: install  ## error and time of the shipped denoisers, beside classical ones
	$(BIN)/python benchmarks/denoising.py --markdown benchmarks/denoisers.md

bench-pnp: install  ## plug-and-play beside the published arithmetic: quality, unlike targets, speed
	$(BIN)/python benchmarks/pnp.py --markdown benchmarks/pnp.md

bench-sbl: install  ## Kronecker sparse Bayesian learning beside the published figures; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kronecker_sbl.py -j $(WORKERS) --markdown benchmarks/kronecker_sbl.md

docs-figures: install  ## the pictures in docs/, from simulated and measured scans
	$(BIN)/python docs/make_figures.py

docs-screenshots: install  ## the pictures of docs/viewer.md; a display, or xvfb
	$(BIN)/pip install --quiet -e ".[viewer-qt]" -c constraints.txt
	$(if $(DISPLAY),,xvfb-run -a -s "-screen 0 1920x1200x24") $(BIN)/python docs/make_screenshots.py

clean:
	rm -rf $(VENV) build dist *.egg-info demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
