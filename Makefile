# make demo   trains CM-ARR on the synthetic demo corpus and prints its table
# make test   runs the whole suite, less the faults
# make test-faults   kills sweeps, breaks their files and fills their disks; 15 minutes at most
# make lint   runs ruff
# make docs   builds the pages of docs/ into site/

PYTHON ?= python3
RUN = TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python

.PHONY: demo test test-faults lint docs

demo: .venv/installed
	@test -d data/demo || $(RUN) -m cmarr_jax.data.demo data/demo
	@$(RUN) train.py --config configs/demo.py --workdir results/demo

test: .venv/installed .venv/installed-extract
	$(RUN) -m pytest -q -n 2 --dist loadfile -m "not faults" tests

test-faults: .venv/installed
	$(RUN) -m pytest -q -n 2 --dist worksteal tests/faults

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

docs: .venv-docs/installed
	.venv-docs/bin/mkdocs build

.venv-docs/installed: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --requirement requirements-docs.txt
	@touch $@

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.txt
	@touch $@

.venv/installed-extract: requirements-extract.txt .venv/installed
	.venv/bin/pip install --quiet --requirement requirements-extract.txt
	@touch $@
