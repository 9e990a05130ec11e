"""Controls recomputed with plain transformers, and when an effect is called an artefact."""

import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal.experiments.controls import Controls, ControlsSettings
from lens_multimodal.experiments.shared.random_parts import partner_picture, untrained_lens, with_random_weights
from lens_multimodal.experiments.shared.summaries import Summary


@pytest.fixture(scope="module")
def context(world):
    return world.context(world.picture(0), ControlsSettings())


@pytest.fixture(scope="module")
def conditions(context):
    return Controls().rows(context)["conditions"].set_index("condition")


def plain_vectors(world, plain, condition: str) -> np.ndarray:
    grey = np.full((9, 3), 128 / 127.5 - 1)
    if condition == "blank picture":
        return plain.map(grey)
    partner = partner_picture(world.scenes, world.scenes[0], 0)
    if condition == "another picture":
        pixels = np.asarray(partner.resize((24, 24), 2), dtype=np.float64) / 127.5 - 1
        return plain.map(plain.colours(pixels, 8))
    return plain.vectors(world.scenes[0].path)


@pytest.mark.parametrize("condition", ["picture", "blank picture", "another picture"])
def test_the_noun_and_its_neurons_under_a_condition_are_the_plain_ones(world, plain, conditions, condition):
    picture = world.picture(0)
    noun = picture.nouns[0]
    vectors, ids = plain_vectors(world, plain, condition), picture.tokens[0, 9 : noun.read_pos + 1].tolist()
    embeds = plain.embeds(vectors, ids)
    before = plain.probabilities(embeds)[noun.read_pos, noun.token]
    row = conditions.loc[condition]
    assert row["probability"] == pytest.approx(before, rel=1e-5)
    scores = plain.attribution(embeds, noun.read_pos, noun.token, 9).max(axis=1).ravel()
    top = [divmod(int(i), 40) for i in np.argsort(-scores, kind="stable")[:12]]
    own = set(zip(picture.top[0]["layer"], picture.top[0]["neuron"], strict=True))
    assert row["overlap"] == pytest.approx(len(set(top) & own) / 12)
    after = plain.probabilities(embeds, top, n_image=9)[noun.read_pos, noun.token]
    assert row["relative_change_top"] == pytest.approx(after / before - 1, abs=1e-4)
    assert row["says_noun_top"] == pytest.approx(np.mean([" dog" in plain.spoken(n) for n in top]))
    said = plain.words.decode(plain.caption(vectors, plain.words("A picture of")["input_ids"], 4))
    assert row["caption"] == said.strip()


def test_all_controls_are_there_and_the_partner_shows_something_else(world, conditions):
    assert conditions.index.tolist() == [
        "picture", "blank picture", "shuffled positions", "another picture", "random projection", "random encoder",
        "untrained language model",
    ]  # fmt: skip
    partner = np.asarray(partner_picture(world.scenes, world.scenes[0], 0))
    assert (partner[..., 2] > 200).any()
    assert not (partner[..., 0] > 200).any(), "dogs are red, and the partner of a dog shows none"


def test_the_untrained_model_has_other_weights_and_leaves_the_trained_one_alone(world, context):
    untrained = untrained_lens(context)
    assert untrained is untrained_lens(context)
    assert untrained.shape == world.lens.shape
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        trained, other = (lens.model(tokens, return_type="logits") for lens in (world.lens, untrained))
        expected = world.plain(tokens).logits
    assert (trained - other).abs().max() > 0.1
    torch.testing.assert_close(trained, expected)


@torch.no_grad()
def test_random_weights_keep_each_parameters_mean_and_spread():
    module = torch.nn.Linear(200, 300)
    twin = with_random_weights(module, torch.Generator().manual_seed(0))
    assert float(twin.weight.std() / module.weight.detach().std()) == pytest.approx(1.0, abs=0.02)
    assert float(twin.weight.mean()) == pytest.approx(float(module.weight.detach().mean()), abs=1e-3)
    assert (twin.weight - module.weight).abs().max() > 0.05


def fabricated(
    kept: float, *, says: float = 0.5, ablated: float = -0.8, pictures: int = 8, spread: float = 0.02
) -> pd.DataFrame:
    """Effects of some pictures; under the control `kept` of them is left."""
    noise = np.random.default_rng(0).normal(0, spread, (2, pictures))
    return pd.DataFrame(
        [
            {
                "image_id": i, "condition": condition, "says_noun_top": says * share + e, "says_noun_random": 0.0,
                "relative_change_top": ablated * share + e, "relative_change_random": 0.0, "log_probability": -1.0,
                "caption_says_noun": condition == "picture", "overlap": 1.0,
            }
            for condition, share, errors in (("picture", 1.0, noise[0]), ("blank picture", kept, noise[1]))
            for i, e in enumerate(errors)
        ]
    )  # fmt: skip


def differences_of(conditions: pd.DataFrame) -> Summary:
    return Controls().summarise({"conditions": conditions}, seed=0)["differences"]


def test_an_effect_that_a_control_keeps_is_called_an_artefact():
    verdict = differences_of(fabricated(1.0)).verdict
    assert verdict.startswith("ARTEFACT: the effect 'says the noun' (0.5")
    assert "under blank picture (10" in verdict
    assert "the effect 'caption' (1.00 [1.00, 1.00]) is not an artefact" in verdict
    assert verdict.endswith("(n = 8 pictures).")


def test_an_effect_that_no_control_keeps_is_not_an_artefact():
    found = differences_of(fabricated(0.1))
    assert "ARTEFACT" not in found.verdict
    assert found.verdict.count("less than half of it remains under every control") == 3
    assert not found.frame["artefact"].any()


@pytest.mark.parametrize(
    ("says", "spread", "why"),
    [(0.0, 0.02, "not distinguishable from zero"), (0.004, 0.0001, "smaller than 0.01")],
)
def test_an_effect_of_practically_nothing_is_absent_and_never_kept(says, spread, why):
    found = differences_of(fabricated(1.0, says=says, spread=spread))
    assert "the effect 'says the noun' is ABSENT with the picture itself (" in found.verdict
    assert f"{why})" in found.verdict
    assert "-0.00" not in found.verdict
    assert found.verdict.startswith("ARTEFACT: the effect 'ablation'"), "the other effect is there, and kept"
    row = found.frame.set_index("effect").loc["says the noun"]
    assert np.isnan(row["kept"])
    assert not row["artefact"]


def test_an_effect_that_is_zero_in_every_picture_is_absent():
    found = differences_of(fabricated(1.0, says=0.0, ablated=0.0, spread=0.0))
    assert found.verdict.count("ABSENT with the picture itself (0.00 [0.00, 0.00], not distinguishable from zero)") == 2
    assert "ARTEFACT" not in found.verdict


def test_an_effect_of_the_other_sign_is_reversed():
    found = differences_of(fabricated(1.0, says=-0.3, ablated=0.4))
    assert found.verdict.count("is REVERSED with the picture itself") == 2
    assert "ARTEFACT" not in found.verdict
    assert not found.frame["artefact"].any()


def test_a_control_whose_own_effect_is_noise_keeps_nothing():
    table = fabricated(0.6)
    blank = table["condition"] == "blank picture"
    table.loc[blank, "says_noun_top"] = np.where(np.arange(blank.sum()) % 2, 5.0, -4.4)
    found = differences_of(table).frame.set_index("effect").loc["says the noun"]
    assert found["kept"] > 0.5
    assert not found["artefact"]


def test_few_pictures_give_no_verdict():
    assert differences_of(fabricated(1.0, pictures=5)).verdict.startswith("No verdict: 5 ")


def test_an_effect_without_a_control_says_so():
    alone = fabricated(1.0)[lambda table: table["condition"] == "picture"]
    found = differences_of(alone)
    assert found.verdict.count("tested under no control") == 3
    assert not len(found.frame)


def test_shuffled_positions_keep_the_content_and_make_no_artefact():
    table = fabricated(1.0).replace({"condition": {"blank picture": "shuffled positions"}})
    assert "ARTEFACT" not in differences_of(table).verdict


def test_without_the_untrained_model_its_rows_are_absent(world):
    picture = world.picture(0)
    context = world.context(picture, ControlsSettings(untrained=False))
    found = Controls().rows(context)["conditions"]
    assert "untrained language model" not in set(found["condition"])
    assert "untrained language model" not in context.made
