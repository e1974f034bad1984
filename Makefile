# `make demo` and `make test` set themselves up: a virtual environment in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test benchmark-test chaos soak check docs format benchmark clean

demo: $(READY)
	$(BIN)/freshet demo

test: check
	$(BIN)/pytest -q -n 2 --dist worksteal --ignore tests/benchmarks

# The benchmarks' own tests: a short run of each.
benchmark-test: $(READY)
	$(BIN)/pytest -q -n 2 --dist worksteal tests/benchmarks

# Trainer and replicas killed again and again, a broker disturbed; FRESHET_CHAOS_SEED repeats the acts of a run.
chaos: $(READY)
	$(BIN)/python -m tests.chaos --kills 100

# Good visitors among hostile clients, for half an hour, with restarts; FRESHET_SOAK_SEED repeats the inputs of a run.
soak: $(READY)
	$(BIN)/python -m tests.soak --minutes 30

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The manual, into site/.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(READY)
	for one in learn_throughput replay_speed memory_read serve_open_loop; do $(BIN)/python -m benchmarks.$$one || exit 1; done

clean:
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# Made anew when what is installed changes; the mark is written last, so that an interrupted set-up starts over.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Freshet needs Python 3.11 or newer, this is ' + sys.version.split()[0] + '; try: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,dev]'
	touch $(READY)
