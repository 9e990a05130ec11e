# The two commands of the README: `make demo` and `make test`. Both make their own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := $(VENV)/lowest
# One process per core, one thread each: faster than one process with two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile
# What leans on other packages; the rest of the suite cannot differ between their releases.
LEANING := tests/transformer tests/image tests/prompt tests/arguments tests/hooks tests/analysis tests/train \
	tests/tiny tests/experiments tests/data tests/views tests/cli tests/explorer \
	tests/package/test_versions.py tests/test_*.py

.PHONY: demo test lint types tests tests-lowest docs tiny clean

demo: $(VENV)/ready
	$(BIN)/python -m lens_multimodal.demo --out out/demo.html

test: lint types tests tests-lowest

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

tests: $(VENV)/ready
	$(PYTEST)

# The same tests on the lowest releases that are allowed, laid over the newest; torch is the same. TransformerLens 3 is
# the one with both HookedTransformer and TransformerBridge.
tests-lowest: $(LOWEST)/ready
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(PYTEST) $(LEANING)

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The tiny trio from scratch: hours on two cores, resumable.
tiny: $(VENV)/ready
	$(BIN)/python -m recipes.tiny all

$(VENV)/ready: pyproject.toml constraints/newest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints/newest.txt -e ".[dev]"
	touch $@

$(LOWEST)/ready: $(VENV)/ready constraints/lowest.txt
	$(BIN)/python -m pip install -q --no-deps --target $(LOWEST) --upgrade -r constraints/lowest.txt
	touch $@

clean:
	rm -rf $(VENV) out build dist
