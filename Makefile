# Everything from a fresh clone: `make demo` and `make test` set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo demo-live demo-year test check test-from-the-clone test-quickly lint lock acceptance bench soak figures rabbitmq chromium network-tools clean

help:
	@echo "make demo        the whole pipeline on the bundled sample, pictures and CSVs to demo-output/"
	@echo "make demo-live   a small network watched: alerts as the edge finds them, and a summary"
	@echo "make demo-year   months that drift: an alarm, a renewed network, and the change-over to it"
	@echo "make test        every check: ruff, mypy, pytest; those on published data where IDS_SHARED or ../shared has it"
	@echo "make check       the quick part of it, in a minute and a half: no broker, browser or namespace, no long training"
	@echo "                 (PYTHON=python3.13: with another Python than python3, in a new virtual environment)"
	@echo "make lint        ruff and mypy alone"
	@echo "make acceptance  the figures of tests/benchmarks/README.md on the published months (IDS_SHARED)"
	@echo "make bench       how fast edge, worker, training, calibration and link are, against plain ones (IDS_SHARED)"
	@echo "make soak        faults and floods at length: kills, cuts, a million events"
	@echo "make figures     the paper's figures, from the bundled sample (DATASET=folder: from other months) and, where"
	@echo "                 IDS_SHARED has them, from the published results, to figures-output/"
	@echo "make lock        write the lock files anew from the requirements"
	@echo "make clean       remove what make made"

# Where PYTHON is named and the environments were made with another one, they are made anew.
IDENTITY := -c 'import sys; print(sys.base_prefix, sys.version)'
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) $(IDENTITY)),$(shell $(BIN)/python $(IDENTITY) 2>/dev/null))
.PHONY: another-python
another-python:
	@$(PYTHON) --version >/dev/null && rm -rf $(VENV) $(VENV)-edge
$(VENV)/installed $(VENV)-edge/installed: another-python
endif
endif

# Installs a lock file, every package by its hash, and then what it leaves out: PyTorch, whose builds differ.
INSTALL := install --quiet --disable-pip-version-check

# The stamps are made anew whenever a requirement changes.
$(VENV)/installed: requirements.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	    || { [ "$$(id -u)" -eq 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv; } \
	    || { echo "Python's venv module is missing; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip $(INSTALL) --require-hashes --requirement requirements.lock
	$(BIN)/pip $(INSTALL) --requirement requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(BIN)/pip $(INSTALL) --require-hashes --requirement requirements-dev.lock
	touch $@

# Writes the lock files anew from the requirements: the newest versions that they admit, for all Pythons and systems.
# PyTorch's build for the CPU and those for CUDA have one version but other files, so it and its CUDA packages are left
# to requirements.txt, which names the version.
LOCKS := requirements-dev.lock requirements.lock requirements-edge.lock
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip $(INSTALL) uv==0.13.9
	for lock in $(LOCKS); do \
	    $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	        --no-annotate $${constraint:-} $${lock%.lock}.txt >$$lock.new || exit; \
	    awk '/^[a-z]/ { kept = !/^(torch|triton|cuda-|nvidia-)/ } kept' $$lock.new >$$lock && rm $$lock.new || exit; \
	    constraint="--constraint requirements-dev.lock"; \
	done
	rm -r $(VENV)-lock

# RabbitMQ where it can be had: Debian's package, when root. Without it the demo runs exit 2 locally.
rabbitmq:
	@sh offload/install-rabbitmq.sh

demo: $(VENV)/installed rabbitmq
	$(BIN)/python offload/demo.py --output-folder demo-output

demo-live: $(VENV)/installed rabbitmq
	$(BIN)/python offload/demo-live.py --output-folder demo-output/live

demo-year: $(VENV)/installed rabbitmq
	$(BIN)/python offload/demo-year.py --output-folder demo-output/year

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

# A browser for the tests of the interactive pages: Debian's package, when root.
chromium:
	@sh tests/install-chromium.sh

# What the tests' own network is made with: Debian's packages, when root.
network-tools:
	@sh tests/install-network-tools.sh

# Four processes for two cores, for a test with a broker waits half of its time. Compiled modules are kept, whatever the
# environment says: each process would spend seconds on compiling the tests.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses $(or $(WORKERS),4) --dist loadfile \
    --no-loadscope-reorder

# The checks of style and types, which take one core, run beside the tests.
test: $(VENV)/installed-dev rabbitmq chromium network-tools
	@$(MAKE) --no-print-directory --jobs=2 lint test-from-the-clone
	@if [ -n "$$IDS_SHARED" ] || [ -d ../shared ]; then set -x; $(PYTEST) -m published; \
	else echo "The tests on published data were left out: IDS_SHARED names no folder, and there is no ../shared."; fi

check: $(VENV)/installed-dev
	@$(MAKE) --no-print-directory --jobs=2 lint test-quickly

# As someone has it who has the repository alone; the tests on published data come after it.
test-from-the-clone:
	IDS_SHARED=/nonexistent $(PYTEST) -m "not published"

test-quickly:
	IDS_SHARED=/nonexistent $(PYTEST) -m "not published and not system and not slow"

acceptance: $(VENV)/installed-dev rabbitmq
	$(BIN)/python tests/acceptance.py

$(VENV)-edge/installed: requirements-edge.lock
	$(PYTHON) -m venv $(VENV)-edge
	$(VENV)-edge/bin/pip $(INSTALL) --require-hashes --requirement requirements-edge.lock
	touch $@

bench: $(VENV)/installed-dev $(VENV)-edge/installed rabbitmq
	mkdir -p bench-output
	$(BIN)/python tests/benchmarks/bench.py --edge-python $(VENV)-edge/bin/python --json bench-output/bench.json
	$(BIN)/python tests/benchmarks/link.py

soak: $(VENV)/installed-dev rabbitmq
	$(BIN)/python tests/soak.py

DATASET ?= dataset/sample
EPOCHS ?= 4
PUBLISHED := $(or $(IDS_SHARED),../shared)/data

figures: $(VENV)/installed rabbitmq
	$(BIN)/python figs/make-results.py --dataset-folder $(DATASET) --epochs $(EPOCHS) --output figures-output/results
	$(BIN)/python figs/reproduce-figures.py --results figures-output/results --output figures-output/ours
	@if [ -d "$(PUBLISHED)/evaluations" ]; then \
	    $(BIN)/python figs/reproduce-figures.py --results "$(PUBLISHED)" --output figures-output/published; fi

# Only what the targets above make; a network that was trained into saves/ is its owner's.
clean:
	rm -rf $(VENV) $(VENV)-edge bench-output demo-output acceptance-output figures-output soak-output .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find calibration dataset dnn evaluations figs models nsga2 offload tests trained_models utils -name __pycache__ -type d -prune -exec rm -rf {} +
