# Everything runs in a virtual environment of its own, made on first use. It sees the packages of the environment that is
# active, a virtual or conda environment for example, where that has PyTorch and detectron2.
#   make quickstart [OPERATOR=lesa|conv|self_attention] [SEEDS=5]    make test    make lint    make bench    make doctor
PYTHON ?= python3
VENV ?= .venv
OPERATOR ?= lesa
SEEDS ?= 1

# Threads that wait at a barrier soon sleep instead of spinning: on a shared machine that is many times faster.
export GOMP_SPINCOUNT ?= 10000

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup quickstart test faults endurance starts mutations bench docs lint format doctor clean

setup: $(READY)

$(READY): pyproject.toml setup.py lesa_d2/install_detectron2.py lesa_d2/detectron2_from_labgym.py
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) -m lesa_d2.install_detectron2 --share $(VENV)
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m lesa_d2.install_detectron2
	touch $@

quickstart: $(READY)
	$(BIN)/python projects/LESA/quickstart.py --operator $(OPERATOR) --seeds $(SEEDS)

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Kills, signals, full disks and files of others, many of each; the table goes into docs/faults.md.
faults: $(READY)
	LESA_FAULTS=docs/faults.md LESA_FUZZ=10000 $(BIN)/python -m pytest tests/faults --deselect tests/faults/test_endurance.py

# 2,000 steps and 1,000 predictions, into the same table.
endurance: $(READY)
	LESA_FAULTS=docs/faults.md $(BIN)/python -m pytest tests/faults/test_endurance.py

# Starts of two processes on busy cores, each of which must end cleanly.
starts: $(READY)
	LESA_STARTS=50 $(BIN)/python -m pytest tests/engine/test_processes.py -k busy_cores

# COCO files with random mistakes, and training on those that pass the check.
mutations: $(READY)
	LESA_MUTATIONS=10000 LESA_MUTATIONS_TRAINED=200 $(BIN)/python -m pytest tests/data/test_mutations.py

# One process a table; about three quarters of an hour on 2 cores.
bench: $(READY)
	for table in attention operator backbone detector htc pretraining memory; do \
		$(BIN)/lesa benchmark $$table --report projects/LESA/BENCHMARKS.md || exit 1; \
	done

# The documentation site, output/docs/index.html.
docs: $(READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c docs . output/docs

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

doctor: $(READY)
	$(BIN)/python -m lesa_d2.doctor

clean:
	rm -rf $(VENV) build *.egg-info
