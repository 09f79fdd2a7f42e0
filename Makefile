# `make` alone tells what there is. Everything is installed into $(VENV), by the versions in constraints.txt.

PYTHON ?= python3
VENV ?= .venv
RECIPE ?= launch/recipes/demo.toml
DS_CONFIG ?= ds_configs/zero2.json
OUTPUT ?= runs/demo
# Ranks: one for each GPU; two where there is none.
RANKS ?= $(shell $(BIN)/python -c "import torch; print(torch.cuda.device_count() or 2)")
# Where benchmarks keep their text, and a checkout of Megatron-LM as one more peer.
BENCH ?= runs/bench
MEGATRON ?=
# Tests that `make check` leaves out.
NOT_FAST = slow or gpu or benchmark

BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed
# Launchers and compilers of the environment come first, whatever else is on the path.
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help pretrain test test-full test-matrix test-kernels test-gpu faults check bench bench-gpu bench-loss bench-data bench-optimizer bench-large-batch bench-saving bench-plan environment clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

pretrain: environment ## environment, then a BERT from the demo text; goes on where a stopped run ended
	deepspeed --num_gpus $(RANKS) launch/pretrain.py --recipe $(RECIPE) --ds_config $(DS_CONFIG) --output $(OUTPUT)

test: environment ## environment, then every test, on the CPU
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-gpu: environment ## the tests that need a GPU
	python -m pytest -m gpu

test-full: environment ## the same, with the sweeps that `test` takes a sample of in full
	python -m pytest --in-full

test-matrix: environment ## every engine, stage, cut and precision beside one plain process; writes the table of the docs
	python -m pytest --in-full tests/numerics/test_matrix.py --matrix-results tests/benchmarks/results

faults: environment ## every fault in full, and a table of what is promised and what was kept; some minutes
	python -m pretrain faults --output tests/benchmarks/results/faults.json

test-kernels: environment ## Triton's kernels without a GPU: by its interpreter, and compiled for GPUs; installs Triton for that alone
	python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/triton triton==3.6.0
	PYTHONPATH=$(VENV)/triton python -m pytest tests/optim/test_triton_passes.py

check: environment ## lint, types and the fast tests
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -q -m "not ($(NOT_FAST))"

bench: environment ## training beside its peers, by part, engine and operator; an hour
	python -m tests.benchmarks.training --cache $(BENCH) --output tests/benchmarks/results/training.json
	python -m tests.benchmarks.backends --cache $(BENCH) --output tests/benchmarks/results/backends.json
	python -m tests.benchmarks.operators --cache $(BENCH) --output tests/benchmarks/results/operators.json

bench-loss: environment ## the time to a held-out loss beside HF Trainer, padded and not; two hours and a half
	python -m tests.benchmarks.time_to_loss --cache $(BENCH) --output tests/benchmarks/results/time_to_loss.json
	python -m tests.benchmarks.time_to_loss --form concatenated --cache $(BENCH) --output tests/benchmarks/results/time_to_loss_concatenated.json

bench-gpu: environment ## training on this machine's GPUs beside its peers, half an hour; without one, everything tried on the CPU
	python -m tests.benchmarks.gpu --cache $(BENCH) --output tests/benchmarks/results/gpu.json

bench-data: environment ## data_prep and batch making beside their peers; about a quarter of an hour
	python -m tests.benchmarks.data_prep --cache $(BENCH) $(if $(MEGATRON),--megatron $(MEGATRON)) --output tests/benchmarks/results/data_prep.json
	python -m tests.benchmarks.batches --cache $(BENCH) --output tests/benchmarks/results/batches.json
	python -m tests.benchmarks.memory --cache $(BENCH) --output tests/benchmarks/results/memory.json
	python -m tests.benchmarks.start --cache $(BENCH) --output tests/benchmarks/results/start.json

bench-optimizer: environment ## the optimizer step beside torch's fused AdamW, on the CPU; some minutes
	python -m tests.benchmarks.optimizer --output tests/benchmarks/results/optimizer.json

bench-large-batch: environment ## the same text in batches of 64 to 4,096 rows, LAMB beside AdamW; an hour or so
	python -m tests.benchmarks.large_batch --cache $(BENCH) --output tests/benchmarks/results/large_batch.json

bench-saving: environment ## what a checkpoint costs a training, beside a plain torch.save; some minutes
	python -m tests.benchmarks.saving --output tests/benchmarks/results/saving.json

bench-plan: environment ## what `pretrain plan` says of memory beside real runs and passes; half an hour
	python -m tests.benchmarks.plan_memory --output tests/benchmarks/results/plan_memory.json
	python -m tests.benchmarks.activations --output tests/benchmarks/results/activations.json

environment: $(INSTALLED) ## $(VENV) with everything in it

# The stamp comes last: an install that was interrupted is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "error: $(PYTHON) cannot make $(VENV); on Debian install python3-venv." >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt -e ".[test,bench]"
	@touch $@

clean: ## removes the environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
