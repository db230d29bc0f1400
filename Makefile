# make demo         trains CM-ARR on the synthetic demo corpus and prints its table
# make test         runs the quick tests of every module
# make test-all     runs the slow ones too: whole sweeps, commands and extractions
# make test-faults  kills sweeps, breaks their files, fills their disks
# make test-device  runs the numerical tests on whatever accelerator is there
# make lint         runs ruff
# make docs         builds the pages of docs/ into site/
# make lock         pins what requirements*.txt ask for, with hashes; what is pinned stays where it may

PYTHON ?= python3
RUN = TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python
PIN = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

TEST = $(RUN) -m pytest -q -n 2 --dist worksteal

.PHONY: demo test test-all test-faults test-device lint docs lock

demo: .venv/installed
	@test -d data/demo || $(RUN) -m cmarr_jax.data.demo data/demo
	@$(RUN) train.py --config configs/demo.py --workdir results/demo

test: .venv/installed .venv/installed-extract
	$(TEST) -m "not slow and not faults" tests

test-all: .venv/installed .venv/installed-extract
	$(TEST) -m "not faults" tests

test-faults: .venv/installed .venv/installed-extract
	$(TEST) -m faults tests

test-device: .venv/installed
	$(RUN) -m pytest -q -m device tests

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

docs: .venv-docs/installed
	.venv-docs/bin/mkdocs build

.venv-docs/installed: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --requirement requirements-docs.txt
	@touch $@

lock: .venv/installed
	.venv/bin/pip install --quiet uv
	$(PIN) --output-file requirements.lock requirements.txt
	$(PIN) --constraint requirements.lock --output-file requirements-extract.lock requirements-extract.txt

.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --require-hashes --requirement requirements.lock
	@touch $@

.venv/installed-extract: requirements-extract.lock .venv/installed
	.venv/bin/pip install --quiet --require-hashes --requirement requirements-extract.lock
	@touch $@
