# The two commands of the README: `make demo` and `make test`. Both make their own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OVERLAY := $(VENV)/transformer-lens-3
# One process per core, one thread each: faster than one process with two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile
# What touches TransformerLens; the rest of the suite cannot differ between its generations.
TRANSFORMER_LENS_TESTS := tests/model tests/hooks tests/analysis tests/train tests/tiny tests/experiments tests/test_*.py

.PHONY: demo test lint types tests tests-tl3 docs tiny clean

demo: $(VENV)/ready
	$(BIN)/python -m lens_multimodal.demo --out out/demo.html

test: lint types tests tests-tl3

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

tests: $(VENV)/ready
	$(PYTEST)

# The same suite on the last TransformerLens with HookedTransformer; only that package differs.
tests-tl3: $(OVERLAY)/ready
	PYTHONPATH=$(OVERLAY) $(PYTEST) $(TRANSFORMER_LENS_TESTS)

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The tiny trio from scratch: hours on two cores, resumable.
tiny: $(VENV)/ready
	$(BIN)/python -m recipes.tiny all

$(VENV)/ready: pyproject.toml constraints/tl4.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints/tl4.txt -e ".[dev]"
	touch $@

$(OVERLAY)/ready: $(VENV)/ready constraints/tl3.txt
	$(BIN)/python -m pip install -q --no-deps --target $(OVERLAY) --upgrade -r constraints/tl3.txt
	touch $@

clean:
	rm -rf $(VENV) out build dist
