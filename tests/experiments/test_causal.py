"""Ablation curves recomputed with plain transformers, and the verdict that they support."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal.analysis.effects.by_row import read_without
from lens_multimodal.experiments.causal import Causal, CausalSettings, trials

SETTINGS = CausalSettings(counts=(1, 2, 5, 10, 20, 50), caption_counts=(1, 5), n_random=2)


@pytest.fixture(scope="module")
def rows(world):
    return world.rows(Causal(), SETTINGS)


def pairs(table) -> list[tuple[int, int]]:
    return list(zip(table["layer"], table["neuron"], strict=True))


def test_every_probability_is_that_of_the_plain_model_without_the_neurons(world, plain, rows):
    picture = world.picture(0)
    noun = picture.nouns[0]
    embeds = plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9:].tolist())
    before = plain.probabilities(embeds)[noun.read_pos, noun.token]
    tried = trials(picture, SETTINGS)
    assert len(tried) == len(rows["ablations"])
    for trial, row in zip(tried, rows["ablations"].itertuples(), strict=True):
        after = plain.probabilities(embeds, pairs(trial.table), n_image=9)[noun.read_pos]
        assert row.probability_before == pytest.approx(before, rel=1e-6)
        assert row.probability_after == pytest.approx(after[noun.token], rel=1e-6)
        assert row.relative_change == pytest.approx(after[noun.token] / before - 1, abs=1e-6)
        assert row.rank_after == (after > after[noun.token]).sum()


def test_captions_are_those_of_the_plain_model_without_the_neurons(world, plain, rows):
    picture = world.picture(0)
    vectors, ids = plain.vectors(picture.scene.path), plain.words("A picture of")["input_ids"]
    tried = [t for t in trials(picture, SETTINGS) if t.n_neurons in SETTINGS.caption_counts]
    for trial, row in zip(tried, rows["captions"].itertuples(), strict=True):
        said = plain.words.decode(plain.caption(vectors, ids, 4, pairs(trial.table)), skip_special_tokens=True)
        assert row.caption_after == said.strip()
        assert row.changed == (said.strip() != picture.caption)


def test_text_after_the_first_line_is_no_change_of_the_caption(world, tmp_path):
    """Llama 3 has ".\\n\\n" as one token: its words belong to the caption, and nothing after it does."""
    said = world.picture(0).caption_ids
    goes_on = world.with_token(said[0], "Ġdog.ĊĊ", folder=tmp_path)
    assert said[0] in goes_on.lens.text.last_ids
    picture = goes_on.picture(0)
    assert picture.caption_ids == said[:1] != said
    assert picture.caption == "dog."
    captions = Causal().rows(goes_on.context(picture, SETTINGS))["captions"]
    assert (captions["changed"] == (captions["caption_after"] != picture.caption)).all()
    assert not captions.loc[captions["neurons"] == "random", "changed"].all()


def test_random_draws_match_in_number_and_layer_and_end_with_the_layer(world):
    picture = world.picture(0)
    tried = trials(picture, SETTINGS)
    for count in SETTINGS.counts:
        top = next(t for t in tried if t.n_neurons == count and t.neurons == "top")
        random = [t for t in tried if t.n_neurons == count and t.neurons == "random"]
        assert len(random) == (2 if top.table["layer"].value_counts().max() <= 20 else 0)
        for drawn in random:
            assert drawn.table["layer"].value_counts().to_dict() == top.table["layer"].value_counts().to_dict()
            assert not set(pairs(drawn.table)) & set(pairs(top.table))
        if count == 5:
            assert set(pairs(random[0].table)) != set(pairs(random[1].table))


def test_draws_depend_on_the_seed_and_on_nothing_else(world):
    picture = world.picture(0)
    one, same, other = (
        [t.table.to_numpy().tolist() for t in trials(replace(picture, seed=seed), SETTINGS) if t.neurons == "random"]
        for seed in (0, 0, 1)
    )
    assert one == same != other


def test_batches_do_not_change_what_is_read(world):
    picture = world.picture(0)
    tables = [None, picture.top[0], None, picture.random[0]]
    reads = [(picture.nouns[0].read_pos, picture.nouns[0].token)]
    tokens = picture.tokens.expand(4, -1)
    whole, single = (
        read_without(world.lens.model, tokens, reads, tables, positions=picture.image_pos, batch_size=size)
        for size in (4, 1)
    )
    torch.testing.assert_close(whole.logit, single.logit)
    assert whole.logit[0] == whole.logit[2] != whole.logit[1]


@pytest.mark.parametrize(
    ("top", "random", "said"),
    [
        (-0.8, -0.01, "is LESS probable"),
        (-0.1, -0.8, "is MORE probable"),
        (-0.1, -0.1, "NOT distinguishably less"),
        (0.5, 2.0, "is LESS probable"),
        (0.5, 0.0, "is MORE probable"),
    ],
)
def test_the_verdict_follows_the_numbers(top, random, said):
    noise = np.random.default_rng(0).normal(0, 0.05, (2, 20))
    rows = pd.DataFrame(
        [
            {
                "image_id": i, "noun": "dog", "own": True, "neurons": kind, "n_neurons": n, "n_model": 4000,
                "relative_change": mean + e,
            }
            for n in (10, 50, 100)
            for kind, mean, errors in (("top", top, noise[0]), ("random", random, noise[1]))
            for i, e in enumerate(errors)
        ]
    )  # fmt: skip
    found = Causal().summarise({"ablations": rows, "captions": pd.DataFrame({"image_id": []})}, seed=0)
    assert said in found["probability"].verdict
    assert "top 50 neurons (1.2 % of all)" in found["probability"].verdict, (
        "the paper ablates up to 1.4 % of the neurons"
    )
    beside = found["probability"].frame.assign(key=found["probability"].paper_keys).dropna(subset="key")
    assert beside[["neurons", "n_neurons"]].to_numpy().tolist() == [["top", 50], ["random", 50]]
    assert "n = 20" in found["probability"].verdict
    assert found["probability"].n_pictures == 20


def test_few_controls_give_no_verdict():
    rows = pd.DataFrame(
        [
            {
                "image_id": i, "noun": "dog", "own": True, "neurons": kind, "n_neurons": 5, "n_model": 100,
                "relative_change": -0.5,
            }
            for i in range(9)
            for kind in ("top", "random")
            if kind == "top" or i < 5
        ]
    )  # fmt: skip
    found = Causal().summarise({"ablations": rows, "captions": pd.DataFrame({"image_id": []})}, seed=0)
    assert found["probability"].verdict.startswith("No verdict: 5 ")


def test_no_rows_make_no_tables():
    assert Causal().summarise({name: pd.DataFrame({"image_id": []}) for name in Causal.tables}, seed=0) == {}


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"counts": ()}, r"count.* \(\) "),
        ({"counts": (5, 2)}, r"^counts .*\(5, 2\)"),
        ({"caption_counts": (0, 1)}, r"^caption_counts .*\(0, 1\)"),
        ({"n_random": 0}, "random.* 0$"),
    ],
)
def test_invalid_counts_are_refused(bad, named):
    with pytest.raises(ValueError, match=named):
        CausalSettings(**bad)
