"""What every test starts from: one thread, checks of types, and tokenizers made on the spot. A plugin of `conftest`."""

import gc

import jaxtyping
import pytest
import torch

from lens_multimodal import VisionLens
from tests.lenses import make_lens
from tests.tokenizers import make_tokenizer

torch.set_num_threads(1)
gc.freeze()  # see `pytest_collection_finish`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that two processes end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported stays, so the garbage collector need not look through it: that took a third of the time.

    It looks through what the tests make less often than usual: that took a twelfth.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 10, 40)


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    """The tokenizer of a layout of `tests.models`, by the layout's name, loaded from a folder as users do."""
    made = {}

    def of_layout(layout: str = "gpt-j"):
        if layout not in made:
            made[layout] = make_tokenizer(tmp_path_factory.mktemp("tokenizer") / layout, layout)
        return made[layout]

    return of_layout


@pytest.fixture(scope="session")
def lens_of(tokenizers):
    """One lens per layout, model class and precision, for tests that leave it as it is."""
    made: dict[tuple, VisionLens] = {}

    def of_case(layout: str = "gpt-j", kind: str = "bridge", dtype: torch.dtype = torch.float32) -> VisionLens:
        case = (layout, kind, dtype)
        if case not in made:
            made[case] = make_lens(layout, kind, dtype=dtype, tokenizer=tokenizers(layout))
        return made[case]

    return of_case


@pytest.fixture(scope="session")
def lens(lens_of) -> VisionLens:
    """The lens on GPT-J in a bridge."""
    return lens_of()


@pytest.fixture
def as_users_have_it():
    """Without the run-time type checks of the test run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
