# make repro: the whole experiment. make test: all checks. Both first create .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
# Not in the lock, which pins the checksum of every file: a release has different builds for CPUs and for GPUs. So torch and the
# CUDA packages that it pins are not verified by checksum.
TORCH := torch==2.13.0
INSTALL := $(VENV)/bin/pip install --no-compile --disable-pip-version-check
# Overrides PYTHONDONTWRITEBYTECODE: without cached bytecode, each program compiles torch and DVC again, which takes longer
# than it runs.
ACTIVE := PYTHONDONTWRITEBYTECODE= PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
# For programs that need only the standard library.
ANY_PYTHON = $(or $(wildcard $(VENV)/bin/python),$(PYTHON))

.PHONY: help setup unmoved named repro restore recipes recipe sweep seeds verify test test-all checks bench bench-full bench-record bench-compare bench-pythae bench-conv bench-profile sanitize gpu docs lock
help:
	@echo "make setup   .venv with the locked packages"
	@echo "make repro   prepare, train, evaluate, plot, as far as something has changed (dvc repro)"
	@echo "make restore the last commit's parameters and results, after an experiment or an invalid value"
	@echo "make recipes every recipe of recipes/, and a table of them"
	@echo "make recipe NAME=aevb_mlp_2d     one recipe"
	@echo "make sweep   experiments over beta (BETAS=0.1,0.3,1,3,10 EPOCHS=5), rate against distortion, into out/"
	@echo "make seeds   the experiment with other seeds (SEEDS=1,2,3,4,5): mean and standard deviation"
	@echo "make verify  make repro, and whether its metrics lie within the spread of other seeds"
	@echo "make checks  ruff, clang-format, mypy and import-linter"
	@echo "make test    make checks and the tests"
	@echo "make test-all        the same and the tests marked long: other GPU architectures, kernels compiled in an experiment"
	@echo "make bench   speed of the operator beside the reference, PyTorch and torch.compile, as a table: under two minutes"
	@echo "make bench-full      the same for all shapes: seven minutes"
	@echo "make bench-record    the same into results/benchmarks, which is in git, with figures: ten minutes"
	@echo "make bench-compare   whether the operator is slower than at commit BASE (default: HEAD): half a minute"
	@echo "make bench-pythae    speed of training beside pythae, which is installed into its own environment"
	@echo "make bench-conv      speed of training convolutions beside a plain PyTorch loop"
	@echo "make bench-profile   what the time of a training step goes to"
	@echo "make sanitize        the kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, the CUDA ones emulated"
	@echo "make gpu     on a machine with an NVIDIA GPU and its own PYTHON: build, test and time the CUDA kernels (BUDGET=360 seconds)"
	@echo "make docs    the documentation as a site that opens from its files: out/docs/index.html"
	@echo "make lock    requirements.lock from pyproject.toml (UPGRADE=--upgrade: the newest versions)"

setup: $(READY)

# A .venv that is a link to another checkout's is installed there.
LINKED := $(shell test -L $(VENV) && echo yes)
$(READY): $(if $(LINKED),,requirements.lock) | unmoved
	@$(PYTHON) pipeline/prerequisites.py
	@echo "Installing requirements.lock and $(TORCH) into $(VENV): some minutes, and some gigabytes"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --requirement requirements.lock
	$(INSTALL) $(TORCH)
	ln -sf ../../pipeline/vae $(VENV)/bin/vae
	echo "$(CURDIR)/$(VENV)" > $@

# The programs of a virtual environment contain its absolute path.
unmoved:
	@test ! -s $(READY) || test "$$(cat $(READY))" = "$(CURDIR)/$(VENV)" || test -L $(VENV) || \
	{ echo "error: $(VENV): made in $$(cat $(READY)), and works nowhere else; rm -r $(VENV), and make again" >&2; exit 2; }
	@test -z "$(LINKED)" || cmp -s requirements.lock $(VENV)/../requirements.lock || \
	{ echo "error: $(VENV): linked from a checkout with another requirements.lock; rm $(VENV), and make again" >&2; exit 2; }

# Checked separately first: DVC also reads params.yaml before its stages run, and its errors do not name the key.
repro: $(READY)
	$(ACTIVE) python -m pipeline.check
	$(ACTIVE) dvc repro
	$(ACTIVE) dvc metrics show

# After an experiment or an invalid value: resets what those change to the last commit. Nothing else is touched.
# Refused if it would delete a model that is not in DVC's cache.
restore: $(READY)
	$(ACTIVE) python -m pipeline.studies.restorable
	git restore --staged --worktree params.yaml dvc.lock results/train results/evaluate results/plot
	git clean --quiet --force results/train results/evaluate results/plot
	$(ACTIVE) dvc checkout --force --allow-missing

recipes: $(READY)
	$(ACTIVE) python -m pipeline.config.recipes
	cd recipes && $(ACTIVE) dvc repro

named:
	@test -s $(READY) || $(PYTHON) pipeline/prerequisites.py
	@$(ANY_PYTHON) -c "import sys; from pipeline.config.paths import *; from pipeline.runtime.main import *; run(lambda: named_recipe(sys.argv[1]))" '$(NAME)'

recipe: named $(READY)
	$(ACTIVE) python -m pipeline.config.recipes
	cd recipes && $(ACTIVE) dvc repro plot@$(NAME)

# Two experiments at a time on half of the cores each: small models gain little from more cores.
HALF := OMP_NUM_THREADS=$$(( ($$(nproc) + 1) / 2 ))

BETAS ?= 0.1,0.3,1,3,10
EPOCHS ?= 5
# The committed sweep is in results/.
SWEEP ?= out
sweep: $(READY)
	$(ACTIVE) dvc exp run --queue -S 'beta=$(BETAS)' -S train.epochs=$(EPOCHS) -S evaluate.importance_samples=100
	$(ACTIVE) $(HALF) dvc exp run --run-all --jobs 2
	$(ACTIVE) python -m pipeline.studies.rate_distortion $(SWEEP)

SEEDS ?= 1,2,3,4,5
seeds: $(READY)
	$(ACTIVE) dvc exp run --queue -S 'seed=$(SEEDS)'
	$(ACTIVE) $(HALF) dvc exp run --run-all --jobs 2
	$(ACTIVE) python -m pipeline.studies.seeds

verify: repro
	$(ACTIVE) python -m pipeline.studies.verify

# Each process takes whole files, whose tests share fixtures; in order, since the longest files are not last.
TESTS := OMP_NUM_THREADS=1 pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
test: checks
	$(ACTIVE) $(TESTS) -m 'not long'

test-all: checks
	$(ACTIVE) $(TESTS)

checks: $(READY)
	$(ACTIVE) ruff check .
	$(ACTIVE) ruff format --check .
	$(ACTIVE) clang-format --dry-run --Werror csrc/*.h csrc/*/* tests/*/*.h tests/*/*.cpp
	$(ACTIVE) mypy
	$(ACTIVE) lint-imports --no-cache

bench: $(READY)
	$(ACTIVE) python -m tests.benchmarks.measure --seconds 60

bench-full: $(READY)
	$(ACTIVE) python -m tests.benchmarks.measure --full

# Two runs: the alternating turns of one run do not show the variation between processes.
bench-record: $(READY)
	$(ACTIVE) python -m tests.benchmarks.measure --full
	$(ACTIVE) python -m tests.benchmarks.measure --report .benchmarks/again.json
	$(ACTIVE) python -m tests.benchmarks.report .benchmarks/report.json .benchmarks/again.json

BASE ?= HEAD
bench-compare: $(READY)
	$(ACTIVE) python -m tests.benchmarks.compare --base $(BASE)

PYTHAE := .venv-pythae
bench-pythae: $(READY) $(PYTHAE)/.ready
	$(ACTIVE) python -m tests.benchmarks.against_pythae --python $(PYTHAE)/bin/python

bench-conv: $(READY)
	$(ACTIVE) python -m tests.benchmarks.convolutions

bench-profile: $(READY)
	$(ACTIVE) python -m tests.benchmarks.step_profile

# The same torch as the lock's, so that both sides run on it.
$(PYTHAE)/.ready:
	$(PYTHON) -m venv $(PYTHAE)
	$(PYTHAE)/bin/pip install --quiet --disable-pip-version-check $(TORCH)
	$(PYTHAE)/bin/pip install --quiet --disable-pip-version-check pythae==0.1.2
	touch $@

sanitize: $(READY)
	$(ACTIVE) python -m tests.standalone.sanitize

# Not in .venv: a GPU machine has a torch that fits its driver, and often no network access.
BUDGET ?= 360
gpu:
	$(PYTHON) -m tests.benchmarks.gpu --budget $(BUDGET)

# Hides Material's notice of its successor. Not --quiet, which would make --strict ignore warnings.
docs: $(READY)
	$(ACTIVE) python docs/hooks/reference.py
	$(ACTIVE) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# Locked versions stay as they are where pyproject.toml allows them.
lock: $(READY)
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/bin/uv pip compile pyproject.toml --extra cuda --group pipeline --group onnx \
	--group dev --group docs --universal --generate-hashes --no-emit-package torch --quiet --output-file requirements.lock $(UPGRADE)
