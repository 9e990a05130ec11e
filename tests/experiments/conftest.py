"""The planted world that most tests of experiments share."""

import pytest

from tests.experiments.planted import World, make_world, plain_trio
from tests.experiments.reference import Plain


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def plain(world) -> Plain:
    return plain_trio(world)
