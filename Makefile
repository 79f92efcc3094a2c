# Everything starts from a bare clone with Python ≥ 3.10 and make: `make book`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PEERS ?= .venv-bench
LOWEST ?= .venv-lowest
JOBS ?= 2
SOURCE ?= .
CHAPTERS ?= $(wildcard book/*.ipynb)
EXPERIMENTS = regression poisson burgers allen-cahn knots refinement second-order bases cycles

INSTALLED = $(VENV)/.installed
FRESH = $(SOURCE)/_build/.fresh
PAGES = $(SOURCE)/_build/.pages
WHEELS = $(SOURCE)/_build/.wheels
# What a chapter's outputs depend on beside its own cells.
INPUTS = $(wildcard kanlib/*.py kanlib/*/*.py kanlib/*/*/*.py book/kanbook/*.py book/kanbook/scripts/*.js book/claims/*.json book/results/*.json) requirements.txt
PYTEST = $(BIN)/python -m pytest
SHORT = --no-header -q
# The tests of the library itself, which need none of the book's packages.
LIBRARY = $(addprefix tests/,splines kernels nn objectives training)

# One thread a process: numbers do not depend on the machine, and processes do not compete.
export OMP_NUM_THREADS = 1
export PYDEVD_DISABLE_FILE_VALIDATION = 1

.PHONY: help book pdf test check test-lowest test-peers reproduce bench lab format clean install
.PHONY: html lint types unit doctest nbval papermill planted browser

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 20

book: html  ## build the book as HTML
	@echo "The book: $(abspath $(SOURCE))/_build/html/index.html"

pdf: html  ## print the book to one PDF, by Chromium
	@echo "Printing the book"
	@$(BIN)/python -m scripts.pdf $(SOURCE)/_build/html $(SOURCE)/_build/kanlib.pdf

test: lint types unit doctest nbval papermill planted html browser  ## run everything that must pass

check: lint types  ## run the quick part of the tests
	@echo "Quick tests"
	@$(PYTEST) $(SHORT) -n $(JOBS) -m "not slow" tests --ignore=tests/notebooks --ignore=tests/browser

test-peers: $(PEERS)/.installed  ## run networks of kanlib inside DeepXDE, PINA and Lightning, and pykan on a table
	@$(PEERS)/bin/python -m pytest $(SHORT) --noconftest tests/interop/test_adapters.py tests/benchmarks/test_tables.py

test-lowest: $(LOWEST)/.installed  ## run quick tests on the lowest versions of pyproject.toml
	@$(LOWEST)/bin/python -m pytest $(SHORT) -n $(JOBS) -m "not slow" $(LIBRARY)

reproduce: install  ## compute every record of book/results anew, or go on where it stopped
	@for name in $(EXPERIMENTS); do \
		echo "Experiment $$name"; \
		$(BIN)/python -m kanlib run $$name --out book/results/$$name.json --resume --workers $(JOBS) || exit 1; \
	done
	@PYTHONPATH=book $(BIN)/python -m kanbook.gallery

bench: $(PEERS)/.installed  ## measure kanlib side by side with its peers; keep the machine quiet for half an hour
	@$(PEERS)/bin/python -m benchmarks

lab: install  ## open the chapters in JupyterLab
	@$(BIN)/jupyter lab book

format: install  ## format the code and put the notebooks in canonical form
	@$(BIN)/ruff check --quiet --fix . && $(BIN)/ruff format --quiet .

clean:  ## remove what was built; the environment stays
	@rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find kanlib tests scripts book -name __pycache__ -prune -exec rm -rf {} +

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed: make PYTHON=python3.12")'
	@echo "Installing into $(VENV), a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps -e .
	@$(BIN)/python scripts/pages.py
	@touch $@

# Other libraries want versions of their own.
$(PEERS)/.installed: benchmarks/requirements.txt
	@echo "Installing into $(PEERS)"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install -qq --disable-pip-version-check -r $<
	@$(PEERS)/bin/pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@

# NumPy's lowest version has wheels for Python up to 3.12, and the script needs 3.11.
$(LOWEST)/.installed: pyproject.toml requirements.txt scripts/lowest.py
	@echo "Installing the lowest versions into $(LOWEST)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)} and "Python 3.11 or 3.12 is needed: make test-lowest PYTHON=python3.12")'
	@$(PYTHON) -m venv $(LOWEST)
	@$(PYTHON) scripts/lowest.py > $(LOWEST)/requirements.txt
	@$(LOWEST)/bin/pip install -qq --disable-pip-version-check -r $(LOWEST)/requirements.txt
	@$(LOWEST)/bin/pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@

# A build that failed is forgotten: the next one would say nothing of pages it has already read.
html: install $(FRESH) $(PAGES) $(WHEELS)
	@echo "Executing the chapters"
	@$(BIN)/python -m scripts.execute $(SOURCE) $(JOBS)
	@echo "Building the book, warnings are errors"
	@$(BIN)/jupyter-book build $(SOURCE) --quiet --warningiserror --nitpick --keep-going \
		|| { rm -rf $(SOURCE)/_build/.doctrees; exit 1; }

# The cache knows the cells of a chapter only; it is emptied when what they call has changed.
$(FRESH): $(INPUTS)
	@rm -rf $(@D)/.jupyter_cache $(@D)/.doctrees && mkdir -p $(@D) && touch $@

# Sphinx writes a page again when its text has changed, not when an extension has.
$(PAGES): $(wildcard book/_ext/*.py)
	@rm -rf $(@D)/.doctrees && mkdir -p $(@D) && touch $@

# What a downloaded chapter needs.
$(WHEELS): $(INPUTS) $(wildcard book/*.ipynb) pyproject.toml scripts/kanbook.toml scripts/wheels.py
	@$(BIN)/python scripts/wheels.py $(SOURCE)/_build/wheels && touch $@

lint: install
	@echo "Lint, format and spelling"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/codespell
	@$(BIN)/python scripts/notebooks.py check
	@$(BIN)/python scripts/pins.py

types: install
	@echo "Types"
	@$(BIN)/mypy

unit: install
	@echo "Unit and property tests"
	@$(PYTEST) $(SHORT) -n $(JOBS) tests --ignore=tests/notebooks --ignore=tests/browser

# Triton, which kanlib.kernels.gpu_triton imports, is for Linux only.
doctest: install
	@echo "Examples in docstrings"
	@$(PYTEST) $(SHORT) --doctest-modules --doctest-ignore-import-errors kanlib book/kanbook book/_ext

# The others run in the build, which fails where a cell does.
nbval: install
	@echo "Chapters against their checked outputs"
	@files=$$(grep -l nbval-check-output $(CHAPTERS)) \
		|| { echo "No checked output"; exit 0; }; \
	$(PYTEST) $(SHORT) -n $(JOBS) --dist loadscope -p no:cacheprovider \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=600 $$files

papermill: install
	@echo "Chapters over other parameters"
	@$(PYTEST) $(SHORT) -n $(JOBS) tests/notebooks/test_parameters.py $(CHAPTERS:%=--chapter=%)

planted: install
	@echo "Form of the notebooks, and planted faults that the tests must see"
	@$(PYTEST) $(SHORT) -n $(JOBS) tests/notebooks --ignore=tests/notebooks/test_parameters.py

# A developer without a browser is told and goes on; where all must pass, one is fetched.
browser: html
	@echo "Every page in a browser"
	@if [ "$(CI)" = true ] && ! command -v chromium >/dev/null; then \
		{ apt-get -qq update && apt-get -qq install -y chromium; } >/dev/null 2>&1 || true; \
	fi
	@$(PYTEST) $(SHORT) -n $(JOBS) --dist loadgroup -p no:cacheprovider tests/browser
