# The two commands of the README: `make demo` and `make test`. Both make their own environment first, from a lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := $(VENV)/lowest
INSTALL := $(PYTHON) constraints/install.py
# One process per core, one thread each: faster than one process with two threads, and than three processes. Bytecode is
# kept whatever the caller's settings: a fresh environment has none, and many tests start a Python of their own.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
# What leans on no release of other packages: tests marked as `newest`, and these folders, of the package's own tests all
# but those of versions and views.
LEANING_ON_NONE := -m 'not newest' $(addprefix --ignore=tests/, arguments benchmarks demos docs fuzz recipes) \
	--ignore-glob='tests/package/test_[!v]*'
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --group build \
	--no-emit-package httpx2-jsfetch --no-annotate --custom-compile-command "make lock" pyproject.toml

.PHONY: demo test lint types tests tests-lowest browser docs tiny lock clean

# One thread: two need little less time, and more than ten times as much where another program keeps a core busy.
demo: $(VENV)/ready-for-demo
	OMP_NUM_THREADS=1 $(BIN)/python -m lens_multimodal.demo --out out/demo.html

# Packages and the browser are fetched at once. mypy needs one core for most of a minute, so it runs beside the tests.
test:
	$(MAKE) -j 2 $(LOWEST)/ready browser
	$(MAKE) lint
	$(MAKE) -j 2 types tests
	$(MAKE) tests-lowest

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

tests: $(VENV)/ready browser
	$(PYTEST)

# The same tests on the lowest releases that are allowed, laid over the newest; torch is the same. TransformerLens 3 is
# the one with both HookedTransformer and TransformerBridge. Types are not checked at run time here, so these tests
# have the package as users have it.
tests-lowest: $(LOWEST)/ready browser
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(PYTEST) --jaxtyping-packages= $(LEANING_ON_NONE)

# Root on Debian gets the browser of the tests of pages from Debian; elsewhere those tests are skipped, in capitals.
browser:
	@if ! command -v chromedriver > /dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		echo "Installing Chromium for the tests of pages, from Debian's packages"; \
		(apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
			chromium chromium-driver) > /dev/null 2>&1 || echo "Chromium could not be installed"; \
	fi

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The tiny trio from scratch: hours on two cores, resumable.
tiny: $(VENV)/ready
	$(BIN)/python -m recipes.tiny all

# After a change of dependencies in pyproject.toml; with UPGRADE=--upgrade, everything moves to its newest release.
lock: $(VENV)/ready
	$(LOCK) $(UPGRADE) --all-extras -o constraints/newest.txt
	$(LOCK) -c constraints/newest.txt -o constraints/demo.txt

$(VENV)/ready-for-demo: pyproject.toml constraints/demo.txt constraints/install.py
	$(INSTALL) constraints/demo.txt $(VENV)
	touch $@

$(VENV)/ready: pyproject.toml constraints/newest.txt constraints/install.py
	$(INSTALL) constraints/newest.txt $(VENV)
	touch $@ $(VENV)/ready-for-demo

$(LOWEST)/ready: $(VENV)/ready constraints/lowest.txt
	$(INSTALL) constraints/lowest.txt $(VENV) --over $(LOWEST)
	touch $@

clean:
	rm -rf $(VENV) out build dist
