"""The command line called in-process, and a picture with a word that the trio says of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.cli import main
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.tiny import scenes_folder
from lens_multimodal.tiny.familiarity import Familiarity


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Said(NamedTuple):
    picture: Path
    word: str
    caption: str


@pytest.fixture
def run(capsys) -> Callable[..., Ended]:
    def run_command(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ended(ended.value.code or 0, captured.out, captured.err)

    return run_command


@pytest.fixture(scope="session", autouse=True)
def scenes_measured_once() -> Iterator[None]:
    """Every command opens the trio and measures its scenes: the same weights give the same measure."""
    measured: list[tuple[torch.Tensor, Familiarity]] = []
    measure = Familiarity.of_scenes

    def of_scenes(encoder: VisionEncoder) -> Familiarity:
        weights = torch.nn.utils.parameters_to_vector(encoder.parameters()).detach()
        for known, familiarity in measured:
            if torch.equal(known, weights):
                return replace(familiarity, encoder=encoder)
        measured.append((weights, measure(encoder)))
        return measured[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Familiarity, "of_scenes", of_scenes)
        yield


@pytest.fixture(scope="session")
def lens() -> Iterator[VisionLens]:
    opened = attach_vision()
    yield opened
    opened.detach()


@pytest.fixture(scope="session")
def pictures() -> list[Path]:
    return sorted((scenes_folder() / "images").iterdir())[:12]


@pytest.fixture(scope="session")
def said(lens, pictures) -> Said:
    """The first picture whose caption says a word after at least one other."""
    for picture in pictures:
        caption = lens.caption(picture)
        ids = lens.text.encode(" " + caption)[1:]
        for token in ids:
            word = lens.text.decode([token])
            if word.startswith(" ") and word.strip().isalpha() and lens.text.encode(word) == [token]:
                return Said(picture, word.strip(), caption)
    raise AssertionError("the trio says no word of two or more tokens")
