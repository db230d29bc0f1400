# make demo         trains CM-ARR on the synthetic demo corpus and prints its table
# make test         runs the tests that take seconds, of every module: minutes
# make test-all     adds the slow ones: subprocesses, whole extractions, long sweeps
# make test-faults  kills sweeps, breaks their files, fills their disks
# make test-device  runs the numerical tests at highest precision on the accelerator that is there
# make lint         runs ruff and the type checker
# make docs         builds the pages of docs/ into site/
# make lock         pins what pyproject.toml asks for, with hashes; what is pinned stays where it may

PYTHON ?= python3
RUN = TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python
TEST = $(RUN) -m pytest -q -n 2 --dist worksteal
PIN = .venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"

.PHONY: demo test test-all test-faults test-device lint docs lock

demo: .venv/installed
	@test -d data/demo || $(RUN) -m cmarr_jax.data.demo data/demo
	@$(RUN) train.py --config configs/demo.py

test: .venv/installed-dev
	$(TEST) -m "not slow and not faults" tests

test-all: .venv/installed-dev
	$(TEST) -m "not faults" tests

test-faults: .venv/installed-dev
	$(TEST) -m faults tests

# One process: two would each take the accelerator's memory.
test-device: .venv/installed-dev
	$(RUN) -m pytest -q -m device tests

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/installed-dev
	.venv/bin/mkdocs build

lock: .venv/installed-dev
	$(PIN) --all-extras --output-file requirements-dev.lock
	$(PIN) --constraint requirements-dev.lock --extra train --output-file requirements.lock
	$(PIN) --constraint requirements-dev.lock --extra extract --output-file requirements-extract.lock

.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --require-hashes --requirement requirements.lock
	@.venv/bin/python -c 'import os, site; \
	print(os.getcwd(), file=open(site.getsitepackages()[0] + "/cmarr_jax.pth", "w"))'
	@touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	.venv/bin/pip install --quiet --require-hashes --requirement requirements-dev.lock
	@touch $@
