"""Loads `tests.every_test` in the processes that run tests; one that only hands them out starts at once without it."""

import os

import pytest

import tests.type_checks  # noqa: F401  before the package, whose functions it checks; a folder's conftest may import that

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also in the processes that tests start


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("tx", None) or config.option.collectonly:
        config.pluginmanager.import_plugin("tests.every_test")
