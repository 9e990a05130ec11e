"""Logit lens and attention cuts recomputed with plain transformers."""

import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.experiments.depth import Depth, DepthSettings


@pytest.fixture(scope="module")
def rows(world):
    return world.rows(Depth(), DepthSettings())


@pytest.fixture(scope="module")
def embeds(world, plain):
    picture = world.picture(0)
    return plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9:].tolist())


def test_the_logit_lens_is_plain_norm_and_head_at_every_depth(world, plain, rows, embeds):
    noun = world.picture(0).nouns[0]
    logits = plain.unembedded(plain.residuals(embeds))
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    places = {"image": range(9), "object": [4], "background": [0, 1, 2, 3, 5, 6, 7, 8], "prediction": [noun.read_pos]}
    assert set(rows["lens"]["place"]) == set(places)
    for row in rows["lens"].itertuples():
        at = list(places[row.place])
        own = log_probability[row.depth, at, noun.token]
        rank = (logits[row.depth, at] > logits[row.depth, at, noun.token][:, None]).sum(axis=1)
        assert row.log_probability == pytest.approx(own.mean(), abs=1e-5)
        assert row.mean_rank == pytest.approx(rank.mean())
        assert (row.best_rank, row.n_positions) == (rank.min(), len(at))


def masks(n_pos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The causal attention mask, and the same without attention of text to the image."""
    lowest = torch.finfo(torch.float64).min
    mask = torch.full((n_pos, n_pos), lowest, dtype=torch.float64).triu(1)
    cut = mask.clone()
    cut[9:, :9] = lowest
    return mask, cut


def test_cutting_all_layers_is_a_plain_attention_mask(world, plain, rows, embeds):
    noun = world.picture(0).nouns[0]
    mask, cut = masks(embeds.shape[1])
    before, after = (
        plain.probabilities(embeds, attention_mask=own[None, None])[noun.read_pos, noun.token] for own in (mask, cut)
    )
    table = rows["cuts"].set_index(["cut", "layer"])
    for whole in (("from", 0), ("up to", 3)):
        assert table.loc[whole, "probability_before"] == pytest.approx(before, rel=1e-6)
        assert table.loc[whole, "probability_after"] == pytest.approx(after, rel=1e-6)
    assert table.loc[("from", 3), "relative_change"] == 0
    assert len(table) == 7


def test_every_cut_is_a_plain_mask_in_its_layers_alone(world, plain, rows, embeds):
    noun = world.picture(0).nouns[0]
    mask, cut = masks(embeds.shape[1])

    def given(own: torch.Tensor):
        return lambda _block, args, kwargs: (args, {**kwargs, "attention_mask": own[None, None]})

    for row in rows["cuts"].itertuples():
        blind = range(row.layer, 3) if row.cut == "from" else range(row.layer)
        handles = [
            block.register_forward_pre_hook(given(cut if layer in blind else mask), with_kwargs=True)
            for layer, block in enumerate(plain.model.transformer.h)
        ]
        after = plain.probabilities(embeds)[noun.read_pos, noun.token]
        for handle in handles:
            handle.remove()
        assert row.probability_after == pytest.approx(after, rel=1e-6), (row.cut, row.layer)
    assert rows["cuts"]["probability_after"].nunique() > 2


def test_small_batches_cut_the_same(world, rows):
    picture = world.picture(0, batch_size=2)
    found = Depth().rows(world.context(picture, DepthSettings()))["cuts"]
    np.testing.assert_allclose(found["probability_after"], rows["cuts"]["probability_after"], rtol=1e-9)


def test_a_batch_without_cuts_runs_as_those_it_is_compared_with(world):
    """Bare modules round in another way, so an uncut batch that ran on them would differ in the last bits."""
    picture = world.picture(0, batch_size=1)
    context = world.context(picture, DepthSettings())
    found = Depth().rows(context)["cuts"]
    with transformer.running_on(world.lens.model, "hooked"):
        hooked = Depth().rows(context)["cuts"]
    pd.testing.assert_frame_equal(found, hooked, check_exact=True)


def test_the_verdicts_follow_the_numbers():
    cuts = pd.DataFrame(
        [
            {"image_id": i, "cut": kind, "layer": layer, "relative_change": change + 0.01 * (i % 3)}
            for i in range(9)
            for kind, layer, change in (("from", 0, -0.9), ("from", 1, -0.5), ("from", 2, -0.05), ("from", 3, 0.0))
        ]
    )
    lens = pd.DataFrame(
        [
            {"image_id": i, "in_picture": True, "place": p, "depth": d, "log_probability": value * d + 0.01 * (i % 3)}
            for i in range(9)
            for p, value in (("object", 1.0), ("background", 0.5 + 0.01 * i))
            for d in (0, 1, 2)
        ]
    )
    found = Depth().summarise({"lens": lens, "cuts": cuts}, seed=0)
    assert "from layer 2 on the image is no longer needed" in found["attention cuts"].verdict
    assert " MORE likely" in found["object against background"].verdict
    assert "at depth 2" in found["object against background"].verdict
    assert "after Holm's correction for 3 depths" in found["object against background"].verdict
    deeper = cuts.assign(relative_change=cuts["relative_change"].mask(cuts["layer"] == 2, -0.3))
    verdict = Depth().summarise({"lens": lens, "cuts": deeper}, seed=0)["attention cuts"].verdict
    assert "in layer 2 alone changes it by -30 % [-30, -30], n = 9 pictures)" in verdict
    few = Depth().summarise({"lens": lens[lens["image_id"] < 5], "cuts": cuts[cuts["image_id"] < 5]}, seed=0)
    assert all(
        few[name].verdict.startswith("No verdict: 5 ") for name in ("attention cuts", "object against background")
    )


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match=r"covered .* 0\.0"):
        DepthSettings(covered=0.0)
