# Two commands set up everything: `make demo` and `make test`. See README.md.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all

.PHONY: demo docs test soak mutants truth rehearsal lint bench bench-sae check-published clean

# torch is installed first and alone. Otherwise the requirements of another package may install a
# build with gigabytes of GPU libraries on a machine without a GPU.
$(VENV)/installed: pyproject.toml envs/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mammo-sae needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$$(sed -n 's/^torch==//p' envs/constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint envs/constraints.txt --editable '.[test]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/snakemake --cores $(CORES)
	$(BIN)/snakemake --cores $(CORES) --report results/phantom/report.html
	@echo
	@echo "Done. Open results/phantom/atlas/index.html and results/phantom/report.html; the tables are in results/phantom/tables."

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# Unit tests run in parallel with one thread each. Real workflows run one after the other on all
# cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not workflow and not soak"
	$(BIN)/python -m pytest -m "workflow and not soak"

# The slow tests take some 20 minutes: killed runs, damaged files, full disks, archives, datasets,
# and a real SLURM (which must be installed).
# To run a part: make soak SOAK=tests/workflow/test_slurm.py
SOAK ?= tests
soak: $(VENV)/installed
	REQUIRE_SLURM=1 $(BIN)/python -m pytest -m soak $(SOAK)

# Changes the code of sae/, analysis/ and dicom/ in 200 small ways, and prints the changes that no
# unit test notices. It takes about an hour on one core. The verdicts are kept in RESULTS: an
# interrupted call goes on, and MUTANTS=--survivors runs again what has survived.
MUTANTS ?= --count 200
RESULTS ?= results/mutants.jsonl
mutants: $(VENV)/installed
	mkdir -p $(dir $(RESULTS))
	$(BIN)/python benchmarks/check_mutants.py $(MUTANTS) --results $(RESULTS)

# Scores the verdicts on phantoms whose causes are known (docs/method.md, "Other phantoms"), and
# ablates confounded latents where the classifier uses the marker. It takes up to an hour on two
# cores. For a part of the first: make truth TRUTH="--seeds 11"
TRUTH ?=
truth: $(VENV)/installed
	missed=0; \
	$(BIN)/python benchmarks/check_verdicts.py $(TRUTH) || missed=1; \
	$(BIN)/python benchmarks/check_ablation.py || missed=1; \
	exit $$missed

# Builds the documentation site in site/. A warning is an error.
docs: $(VENV)/installed
	$(BIN)/mkdocs build

# Runs the steps after extraction on synthetic results and prints their time and memory
# (docs/scale.md). For a part: make rehearsal REHEARSAL="--images 1000 4000 --steps latents"
REHEARSAL ?=
rehearsal: $(VENV)/installed
	$(BIN)/python benchmarks/rehearsal.py $(REHEARSAL)

# Measures every figure of speed that the project claims and writes benchmarks/bench.json. It takes
# up to 40 minutes on two cores.
bench: $(VENV)/installed
	$(BIN)/python benchmarks/bench.py

# Compares the speed of SAE trainers. The first call builds the environment of the other libraries
# in .venv-bench.
bench-sae: $(VENV)/installed
	$(BIN)/python benchmarks/bench_sae.py

# Reads files that other libraries write. It needs the environment of these libraries, see
# benchmarks/requirements-published.txt. With a clone of Mammo-SAE's repository it also runs the
# scripts of Mammo-SAE: make check-published MAMMO_SAE=../MammoSAE
MAMMO_SAE ?=
check-published: $(VENV)/installed
	$(BIN)/python benchmarks/check_published.py $(if $(MAMMO_SAE),--mammo-sae $(MAMMO_SAE))

clean:
	rm -rf results .snakemake .mypy_cache .pytest_cache .ruff_cache .hypothesis
