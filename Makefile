# Everything sets itself up: a fresh machine has Python 3.11+, make and a package index.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
FLOORS := .venvs/floors

.PHONY: demo demo-serve check unit test test-floors coverage lint format docs simulate mutants crash kill disk wire model day soak page screenshots ops properties fuzz nightly bench bench-large bench-peers wheel-test clean
.DELETE_ON_ERROR:

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]' --group test --group lint --group docs
	touch $@

demo: $(READY)  ## a job from file to results on a local sandbox: many batches, one line per request
	$(BIN)/abatch run examples/requests.jsonl --to demo-results.jsonl --sandbox --requests-per-batch 12
	@echo; echo "demo-results.jsonl: $$(wc -l < demo-results.jsonl) results. The same command again does nothing:"
	$(BIN)/abatch run examples/requests.jsonl --to demo-results.jsonl --sandbox --requests-per-batch 12 --quiet

demo-serve: $(READY)  ## the service on a local sandbox with a few jobs; open the link that it prints, and end it with Ctrl-C
	$(BIN)/abatch submit examples/requests.jsonl --to demo-serve/all.jsonl --key all --sandbox --requests-per-batch 12
	$(BIN)/abatch submit examples/requests.jsonl --to demo-serve/trial.jsonl --key trial --sandbox --limit 10 --again
	$(BIN)/abatch serve --sandbox --inbox demo-serve/inbox --poll-interval 1

check: $(READY)  ## lint beside the unit tests, in less than a minute on two cores; fewer examples than in make test
	$(MAKE) -j2 lint unit

unit: $(READY)
	ABATCH_QUICK=1 $(BIN)/python -m pytest -q tests/unit

test: $(READY)  ## every test; the servers they need are installed with them
	$(BIN)/python -m pytest

test-floors: $(FLOORS)/.ready  ## the lowest versions that pyproject.toml allows, in a venv of their own
	$(FLOORS)/bin/python -m pytest tests/unit tests/sandbox tests/e2e

$(FLOORS)/.ready: pyproject.toml tests/floors.py
	$(PYTHON) -m venv --clear $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(FLOORS)/bin/python tests/floors.py > $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(FLOORS)/floors.txt -e '.[all]' --group test
	touch $@

coverage: $(READY)  ## every branch of abatch/protocol is reached by a unit test
	$(BIN)/python -m pytest -q tests/unit --cov --cov-report=term-missing:skip-covered

wheel-test:  ## the suite against the built wheel, from another folder
	sh tests/against_wheel.sh $(PYTHON)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/mkdocs build --strict

simulate: $(READY)  ## SEEDS histories of the whole manager, every rule and fault met; or one, with its trace: SEED=123
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),20000) --reach $(or $(REACH),50))

mutants: $(READY)  ## the simulation against code with a guard taken out: each must be found
	$(BIN)/python -m pytest tests/simulation/test_mutants.py

crash: $(READY)  ## death at every effect of a run, and once more on the way back, into every backend
	$(BIN)/python -m tests.kill.crashes

kill: $(READY)  ## real processes killed at KILLS named places and at INSTANTS random ones, into every backend
	$(BIN)/python -m tests.kill --kills $(or $(KILLS),400) --random $(or $(INSTANTS),200) --repeat $(or $(REPEAT),3)

disk: $(READY)  ## every operation on the disk refused in turn
	$(BIN)/python -m tests.disk --every $(or $(EVERY),1)

wire: $(READY)  ## whole jobs against a second server that answers in every recorded shape
	$(BIN)/python -m pytest tests/wire

model: $(READY)  ## every configuration of the protocol's model, with a counterexample where a guard or bound is missing
	$(BIN)/python -m tests.model --long

day: $(READY)  ## the service for a day, in a minute: jobs from six sources into three backends, two deaths, webhooks
	$(BIN)/python -m tests.day

soak: $(READY)  ## the service under steady load for SECONDS: nothing grows, nothing is lost or paid for twice
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),60)

page: $(READY)  ## a browser on the page of the service, and axe-core; needs Debian's chromium, and npm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group page
	$(BIN)/python -m tests.page

screenshots: $(READY)  ## the pictures of the page in the docs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group page
	$(BIN)/python -m tests.page --pictures docs/images

ops:  ## promtool, from Debian's package, reads the rules, fires each alert, and reads the dashboard
	$(PYTHON) -m tests.ops

fuzz: $(READY)  ## hostile bytes for SECONDS on all readers together, guided by coverage
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3'
	$(BIN)/python -m tests.hostile.fuzz --seconds $(or $(SECONDS),60)

properties: $(READY)  ## hostile bytes once more, not guided, twenty times as many as in the tests
	ABATCH_LONG=1 $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/hostile

# KILLS: more than there are places
nightly: SEEDS = 500000
nightly: KILLS = 1000000
nightly: INSTANTS = 20000
nightly: SECONDS = 7200
nightly: simulate mutants crash kill disk model day soak ops properties fuzz  ## every lane, for a night

bench: $(READY)  ## claims of speed and memory, each a ratio measured in one run; into README.md with README=1
	$(BIN)/python -m benchmarks $(if $(README),--readme)

bench-large: $(READY)  ## growth to ten million results: some minutes, 15 GB of disk
	$(BIN)/python -m benchmarks growth-large $(if $(README),--readme)

bench-peers: $(READY)  ## the same job done by other programs, each in a venv of its own under .venvs
	$(BIN)/python -m benchmarks peers $(if $(README),--readme)

clean:
	rm -rf $(VENV) .venvs build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .import_linter_cache demo-results.jsonl demo-serve .abatch-sandbox
