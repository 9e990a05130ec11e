"""Faithfulness recomputed: every neuron ablated with plain transformers, ranks in NumPy."""

import numpy as np
import pandas as pd
import pytest

from lens_multimodal.analysis import ablation_effects
from lens_multimodal.experiments.score_faithfulness import Faithfulness, FaithfulnessSettings
from tests.experiments.planted import plain_trio
from tests.experiments.reference import ranks


def test_rank_correlation_and_ends_are_the_plain_ones(world):
    plain = plain_trio(world)
    picture = world.picture(0)
    noun = picture.nouns[0]
    settings = FaithfulnessSettings(n_neurons=120, integrate_every=1)
    table = Faithfulness().rows(world.context(picture, settings))["scores"].set_index("score")
    embeds = plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9 : noun.read_pos + 1].tolist())

    every = [(layer, neuron) for layer in range(3) for neuron in range(40)]
    clean = plain.logits(embeds)[noun.read_pos, noun.token]
    effects = np.array([clean - plain.logits(embeds, [n], n_image=9)[noun.read_pos, noun.token] for n in every])
    scores = plain.attribution(embeds, noun.read_pos, noun.token, 9).sum(axis=1).ravel()
    spearman = np.corrcoef(ranks(effects), ranks(scores))[0, 1]
    assert table.loc["activation_x_gradient", "spearman"] == pytest.approx(spearman, abs=1e-4)
    assert table["clean_value"].iloc[0] == pytest.approx(clean, rel=1e-6)
    gone = plain.logits(embeds, every, n_image=9)[noun.read_pos, noun.token]
    assert table["all_ablated_value"].iloc[0] == pytest.approx(gone, rel=1e-6)
    best = [set(np.argsort(-values, kind="stable")[:12].tolist()) for values in (effects, scores)]
    assert table.loc["activation_x_gradient", "top_k_overlap"] == pytest.approx(len(best[0] & best[1]) / 12)


def test_the_ranks_of_effects_do_not_depend_on_the_batch(world):
    """The last rows of a batch round in another way, which must not rank neurons that change nothing."""
    picture = world.picture(0)
    noun = picture.nouns[0]
    every = [(layer, neuron) for layer in range(3) for neuron in range(40)]
    of_batch = {}
    for batch_size in (1, 31, 32, 128):
        table = ablation_effects(
            world.lens.model, picture.until(noun), noun.token, every, picture.image_pos, batch_size=batch_size
        )
        of_batch[batch_size] = ranks(table["effect"])
    without = (of_batch[1] == of_batch[1][-1]).sum()
    assert without >= 36, "in the last layer image positions reach no other"
    for batch_size in (31, 32, 128):
        assert np.corrcoef(of_batch[1], of_batch[batch_size])[0, 1] > 0.999


def test_integrated_gradients_are_for_some_pictures_only(world):
    counted = 0
    for index in (0, 2, 4):
        picture = world.picture(index)
        settings = FaithfulnessSettings(n_neurons=10, integrate_every=2)
        table = Faithfulness().rows(world.context(picture, settings))["scores"]
        again = Faithfulness().rows(world.context(world.picture(index), settings))["scores"]
        assert table.equals(again)
        counted += "integrated_gradients" in set(table["score"])
    assert 0 < counted < 3


def test_the_verdict_names_the_best_score_and_the_papers():
    rows = pd.DataFrame(
        [
            {
                "image_id": i,
                "score": score,
                "spearman": value + 0.01 * (i % 3),
                "top_k_overlap": 0.5,
                "deletion": 1.0,
                "insertion": 1.0,
            }
            for i in range(8)
            for score, value in (("activation_x_gradient", 0.5), ("integrated_gradients", 0.8), ("ablation", 1.0))
        ]
    )
    verdict = Faithfulness().summarise({"scores": rows}, seed=0)["scores"].verdict
    assert verdict.startswith("integrated_gradients ranks neurons most like their true effects: rank correlation 0.81")
    assert "activation_x_gradient (the paper's) has 0.51 [0.50, 0.51]: LESS (n = 8 pictures with both)" in verdict
    other = rows.assign(spearman=np.where(rows["score"] == "activation_x_gradient", 0.9, rows["spearman"]))
    verdict = Faithfulness().summarise({"scores": other}, seed=0)["scores"].verdict
    assert verdict.startswith("activation_x_gradient ranks neurons most like their true effects: rank correlation 0.90")
    assert "integrated_gradients has 0.81 [0.80, 0.81]: LESS" in verdict
    assert "n = 8 pictures" in verdict


@pytest.mark.parametrize("bad", [{"n_neurons": 3}, {"integrate_every": 0}])
def test_invalid_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        FaithfulnessSettings(**bad)
