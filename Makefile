# The verbs of the project. Everything is installed into .venv; nothing needs root.
PYTHON ?= python3.11
BIN := .venv/bin
# uv does not read pip's find-links by itself.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: help demo test check fix golden bench lock clean
help:
	@echo "make demo    the whole loop on real flights, to a served canary"
	@echo "make test    everything that must pass: checks, then tests"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make fix     format, and mend what ruff can"
	@echo "make golden  rewrite component.yaml and the golden pipelines from the code"
	@echo "make bench   measure the steps and print a table"
	@echo "make lock    resolve the newest allowed versions into requirements.lock"
	@echo "make clean   remove .venv and .fti"

demo: .venv/ready
	$(BIN)/fti demo

test: check
	$(BIN)/python -m pytest -m "not slow" -n 2
	$(BIN)/python -m pytest -m slow

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/check_installed.py

fix: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: .venv/ready
	$(BIN)/fti compile --in-place --output tests/golden

bench: .venv/ready
	$(BIN)/python benchmarks/steps.py

lock: .venv/ready
	rm -f requirements.lock
	$(BIN)/uv pip compile setup.py --extra local --extra explain --extra tracing --extra dev --python-version 3.11 --no-header --no-annotate -q -o requirements.lock
	sed -i 's/+cpu//' requirements.lock

clean:
	rm -rf .venv .fti

.venv/ready: requirements.lock setup.py
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { echo "$(PYTHON) with venv is needed. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
