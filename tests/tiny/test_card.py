"""The shipped weights reproduce the figures of their card."""

import json
from pathlib import Path

import pytest

from lens_multimodal import VisionLens, tiny
from recipes.tiny.evaluate.captions import caption_all, direct_decoding, naming, precision_recall, seen
from recipes.tiny.evaluate.translation import translation
from recipes.tiny.sample_scene import Scene, of_split, read_scenes

pytestmark = pytest.mark.newest

FIGURES = json.loads((tiny.FOLDER / "figures.json").read_text())
KINDS = {"known": "train", "held_out_drawing": "held_out_drawing", "held_out_style": "held_out_style"}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return read_scenes(tiny.scenes_folder())


@pytest.fixture(scope="module")
def vocabulary() -> list[str]:
    instances = json.loads((tiny.scenes_folder() / "instances.json").read_text())
    return [category["name"] for category in instances["categories"]]


@pytest.mark.slow
def test_captions_of_the_shipped_scenes(lens: VisionLens, scenes: list[Scene], vocabulary: list[str]) -> None:
    captioned = caption_all(lens, scenes, seen(lens))
    for kind, split in KINDS.items():
        own = [c for c in captioned if c.scene in of_split(scenes, split)]
        said = FIGURES["naming"]["trio on shipped scenes"][kind]
        measured = naming(own, vocabulary)
        assert measured["scenes"] == said["scenes"]
        assert measured["share"] == pytest.approx(said["share"], abs=1.5 / said["scenes"])
    several = precision_recall(captioned, vocabulary)
    assert several["recall"] == pytest.approx(FIGURES["several objects"]["trio"]["recall"], abs=0.01)
    assert several["precision"] == pytest.approx(FIGURES["several objects"]["trio"]["precision"], abs=0.01)


def test_the_card_says_what_the_figures_say() -> None:
    card = (tiny.FOLDER / "MODEL_CARD.md").read_text()
    for who in ("trio", "blank image", "shuffled features", "random encoder"):
        for kind in KINDS:
            assert f"{FIGURES['naming'][who][kind]['share']:.1%}" in card
    unfinished = FIGURES["naming"]["trio"]["known"]["share"] < 0.85
    assert ("Not finished" in card) == unfinished


def test_the_readme_says_what_the_figures_say() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for kind in KINDS:
        assert f"{100 * FIGURES['naming']['trio'][kind]['share']:.0f} %" in readme


@pytest.mark.slow
def test_top_neurons_cause_the_word(lens: VisionLens, scenes: list[Scene]) -> None:
    """The paper's causal claim on a sample: found neurons take more of the probability than random ones."""
    found = translation(lens, of_split(scenes, "train")[::4])
    left = found["probability left after ablation"]
    assert found["scenes"] >= 20
    assert left["top 300"] < 0.5 * left["random 300"]
    assert left["top 300"] < left["top 20"]


@pytest.mark.slow
def test_direct_decoding_is_near_the_card(lens: VisionLens, scenes: list[Scene]) -> None:
    """The card measures more scenes; a sample lies within its sampling error."""
    measured = direct_decoding(lens, of_split(scenes, "train"))
    for name, share in FIGURES["direct decoding"].items():
        assert measured[name] == pytest.approx(share, abs=0.15), name
