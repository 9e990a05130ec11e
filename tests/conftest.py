"""What every test starts from: one thread, no network, and tokenizers made on the spot."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from tests.tokenizers import make_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    """The tokenizer of a layout of `tests.models`, by the layout's name, loaded from a folder as users do."""
    made = {}

    def of_layout(layout: str = "gpt-j"):
        if layout not in made:
            made[layout] = make_tokenizer(tmp_path_factory.mktemp("tokenizer") / layout, layout)
        return made[layout]

    return of_layout
