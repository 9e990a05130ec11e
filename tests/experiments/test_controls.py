"""Controls recomputed with plain transformers, and when an effect is called an artefact."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal.experiments.control_effects import ARTEFACT
from lens_multimodal.experiments.controls import Controls, ControlsSettings
from lens_multimodal.experiments.shared.once import Once
from lens_multimodal.experiments.shared.random_parts import partner_picture, untrained_lens, with_random_weights
from lens_multimodal.experiments.shared.summaries import NOT_ESTABLISHED, OPPOSITE, TOO_FEW, YES, Summary
from tests.experiments.planted import make_world, nine_dogs


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
    assert not (partner[..., 0] > 200).any(), "dogs are red, and the partner of a picture with a dog shows no dog"


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
    """Effects of some pictures; under the control the noun and the neurons that write it keep a share `kept`.

    The relative change of the ablation is the same under both, as in any model.
    """
    noise = np.random.default_rng(0).normal(0, spread, (2, pictures))
    return pd.DataFrame(
        [
            {
                "image_id": i, "condition": condition, "says_noun_top": says * share + e, "says_noun_random": 0.0,
                "probability": 0.9 * share, "relative_change_top": ablated + e, "relative_change_random": 0.0,
                "log_probability": -1.0, "caption_says_noun": condition == "picture", "overlap": 1.0,
            }
            for condition, share, errors in (("picture", 1.0, noise[0]), ("blank picture", kept, noise[1]))
            for i, e in enumerate(errors)
        ]
    )  # fmt: skip


def differences_of(conditions: pd.DataFrame) -> Summary:
    return Controls().summarise({"conditions": conditions}, seed=0)["differences"]


def answers_of(found: Summary) -> dict[str, str]:
    return {effect: part.answer for effect, part in found.conclusion.parts.items()}


def test_an_effect_that_a_control_keeps_is_called_an_artefact():
    found = differences_of(fabricated(1.0))
    assert answers_of(found) == {"writes the noun": ARTEFACT, "ablation": ARTEFACT, "caption": YES}
    text = found.conclusion.parts["ablation"].text
    assert text.startswith("ARTEFACT: ")
    assert "is 0.7" in text, "a probability of 0.9 loses four fifths"
    assert "under blank picture (10" in text
    assert text.endswith("(n = 8 pictures).")


def test_an_effect_that_no_control_keeps_needs_the_picture_although_the_ablation_works_there_too():
    found = differences_of(fabricated(0.1))
    assert set(answers_of(found).values()) == {YES}
    assert set(found.frame.loc[found.frame["effect"] != "log probability", "remains"]) == {"less than half"}
    kept = found.frame.set_index("effect")["kept"]
    assert kept["ablation"] == pytest.approx(0.1, abs=0.01)


def test_about_half_decides_nothing():
    table = fabricated(0.5)
    blank = table["condition"] == "blank picture"
    table.loc[blank, "says_noun_top"] = np.where(np.arange(blank.sum()) % 2, 0.35, 0.15)
    found = differences_of(table)
    assert answers_of(found)["writes the noun"] == NOT_ESTABLISHED
    assert "is NOT established under blank picture (" in found.conclusion.parts["writes the noun"].text


@pytest.mark.parametrize(
    ("says", "spread", "why"),
    [(0.0, 0.02, "not established to be above zero"), (0.004, 0.0001, "smaller than 0.01")],
)
def test_an_effect_of_practically_nothing_is_absent_and_never_kept(says, spread, why):
    found = differences_of(fabricated(1.0, says=says, spread=spread))
    part = found.conclusion.parts["writes the noun"]
    assert f"the effect is ABSENT ({why})" in part.text
    assert part.answer == NOT_ESTABLISHED
    assert "-0.00" not in found.verdict
    assert answers_of(found)["ablation"] == ARTEFACT, "the other effect is there, and kept"
    row = found.frame.set_index("effect").loc["writes the noun"]
    assert np.isnan(row["kept"])
    assert pd.isna(row["remains"])


def test_an_effect_that_is_zero_in_every_picture_is_absent():
    found = differences_of(fabricated(1.0, says=0.0, ablated=0.0, spread=0.0))
    assert found.verdict.count("is 0.00 [0.00, 0.00]: the effect is ABSENT") == 2
    assert ARTEFACT not in answers_of(found).values()


def test_an_effect_of_the_other_sign_is_reversed():
    found = answers_of(differences_of(fabricated(1.0, says=-0.3, ablated=0.4)))
    assert found == {"writes the noun": OPPOSITE, "ablation": OPPOSITE, "caption": YES}


def test_a_control_whose_own_effect_is_noise_keeps_nothing():
    table = fabricated(0.6)
    blank = table["condition"] == "blank picture"
    table.loc[blank, "says_noun_top"] = np.where(np.arange(blank.sum()) % 2, 5.0, -4.4)
    found = differences_of(table).frame.set_index("effect").loc["writes the noun"]
    assert found["kept"] > 0.5
    assert found["remains"] == "not established"


def test_few_pictures_give_no_verdict():
    found = differences_of(fabricated(1.0, pictures=5))
    assert found.verdict.startswith("No verdict: 5 ")
    assert set(answers_of(found).values()) == {TOO_FEW}


def test_more_controls_take_more_pictures():
    table = fabricated(0.1, pictures=6)
    others = [table[table["condition"] != "picture"].assign(condition=f"control {i}") for i in range(3)]
    assert set(answers_of(differences_of(table)).values()) == {YES}
    found = differences_of(pd.concat([table, *others]))
    assert found.verdict.startswith("No verdict: 6 pictures are too few, 8 are needed"), "2 x 4 / 2 ** 8 < 0.05"


def test_an_effect_without_a_control_says_so():
    alone = fabricated(1.0)[lambda table: table["condition"] == "picture"]
    found = differences_of(alone)
    assert found.verdict.count("no control was run") == 3
    assert not len(found.frame)


def test_shuffled_positions_keep_the_content_and_make_no_artefact():
    table = fabricated(1.0).replace({"condition": {"blank picture": "shuffled positions"}})
    assert ARTEFACT not in answers_of(differences_of(table)).values()


@pytest.mark.parametrize(("blind", "answer"), [(False, YES), (True, ARTEFACT)])
def test_a_neuron_that_sees_needs_the_picture_and_a_blind_one_does_not(tmp_path, blind, answer):
    """The control can come out either way: the blind neuron writes " dog" whatever the picture shows."""
    world = make_world(tmp_path, blind=blind)
    dogs = nine_dogs(tmp_path / "dogs")
    world = replace(world, scenes=[*dogs, *world.scenes])
    once = Once()
    settings = ControlsSettings(untrained=False)
    contexts = [world.context(world.picture(i, top_k=3), settings, once=once) for i in range(len(dogs))]
    rows = pd.concat([Controls().rows(context)["conditions"] for context in contexts])
    assert (rows["noun"] == "dog").all()
    blank = rows[rows["condition"] == "blank picture"]
    assert (blank["relative_change_top"] < blank["relative_change_random"]).all(), "relatively, it falls either way"
    assert answers_of(differences_of(rows))["ablation"] == answer


def test_the_pictures_of_controls_go_through_the_encoder_together(world):
    picture, seen = world.picture(0), []
    assert picture.vectors is not None
    handle = world.lens.vision.register_forward_hook(lambda _module, args, _output: seen.append(len(args[0])))
    try:
        Controls().rows(world.context(picture, ControlsSettings(untrained=False)))
    finally:
        handle.remove()
    assert seen == [2, 1, 1], "the blank and the other picture; the picture for the random projection, and in the copy"


def test_without_the_untrained_model_its_rows_are_absent(world):
    picture = world.picture(0)
    context = world.context(picture, ControlsSettings(untrained=False))
    found = Controls().rows(context)["conditions"]
    assert "untrained language model" not in set(found["condition"])
    assert "untrained language model" not in context.once.made
