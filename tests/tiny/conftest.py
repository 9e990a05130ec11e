"""The shipped trio, opened once."""

from collections.abc import Iterator

import pytest

from lens_multimodal import VisionLens, attach_vision


@pytest.fixture(scope="session")
def lens() -> Iterator[VisionLens]:
    opened = attach_vision()
    yield opened
    opened.detach()
