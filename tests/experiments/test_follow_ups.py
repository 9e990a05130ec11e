"""Follow-up measures recomputed with plain transformers and NumPy."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lens_multimodal.experiments.follow_ups import FollowUps, FollowUpsSettings
from tests.experiments.planted import World
from tests.experiments.reference import ranks

SETTINGS = FollowUpsSettings(covered=0.5, mean_over=6)


@pytest.fixture(scope="module")
def rows(world):
    return world.rows(FollowUps(), SETTINGS)


def test_the_object_is_replaced_by_the_mean_vector_of_the_data_set(world, plain, rows):
    picture = world.picture(0)
    noun = picture.nouns[0]
    ids = picture.tokens[0, 9 : noun.read_pos + 1].tolist()
    mean = np.mean([plain.vectors(scene.path) for scene in world.scenes], axis=(0, 1))
    whole = plain.vectors(picture.scene.path)
    removed, background = whole.copy(), whole.copy()
    removed[4] = mean
    background[[0, 1, 2, 3, 5, 6, 7, 8]] = mean
    table = rows["regions"].set_index("condition")
    expected_vectors = {
        "picture": whole, "object removed (mean vector)": removed, "background removed (mean vector)": background,
    }  # fmt: skip
    for name, vectors in expected_vectors.items():
        expected = plain.probabilities(plain.embeds(vectors, ids))[noun.read_pos, noun.token]
        assert table.loc[name, "probability"] == pytest.approx(expected, rel=1e-5)
        said = plain.words.decode(plain.caption(vectors, plain.words("A picture of")["input_ids"], 4))
        assert table.loc[name, "caption"] == said.strip()
    falls = (plain.activations(plain.embeds(whole, ids)) - plain.activations(plain.embeds(removed, ids)))[:, :9]
    largest = {divmod(int(i), 40) for i in np.argsort(-falls.max(axis=1).ravel(), kind="stable")[:12]}
    own = set(zip(picture.top[0]["layer"], picture.top[0]["neuron"], strict=True))
    assert table.loc["object removed (mean vector)", "overlap_by_difference"] == pytest.approx(len(largest & own) / 12)
    assert np.isnan(table.loc["picture", "overlap_by_difference"])
    assert not any("scene without it" in condition for condition in table.index), "no such pictures in this data set"


def test_the_gradient_free_score_is_activation_times_the_plain_product(world, plain, rows):
    picture = world.picture(0)
    noun = picture.nouns[0]
    embeds = plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9 : noun.read_pos + 1].tolist())
    head = plain.model.lm_head.weight[noun.token].numpy()
    written = np.stack([block.mlp.fc_out.weight.numpy().T @ head for block in plain.model.transformer.h])
    paper = plain.attribution(embeds, noun.read_pos, noun.token, 9).max(axis=1).ravel()
    table = rows["scores"].set_index("where")
    for where, at in (("image positions", slice(0, 9)), ("last position", slice(noun.read_pos, None))):
        score = (plain.activations(embeds)[:, at] * written[:, None]).max(axis=1).ravel()
        spearman = np.corrcoef(ranks(score), ranks(paper))[0, 1]
        assert table.loc[where, "spearman"] == pytest.approx(spearman, abs=1e-6)
        best = [set(np.argsort(-values, kind="stable")[:12].tolist()) for values in (score, paper)]
        assert table.loc[where, "overlap"] == pytest.approx(len(best[0] & best[1]) / 12)
        assert table.loc[where, "n_compared"] == 120


def test_sensitivity_is_the_plain_cosine_of_the_nearest_word(world, plain, rows):
    picture = world.picture(0)
    table = plain.model.transformer.wte.weight.numpy()
    table = table - table.mean(axis=0)
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    noun = table[picture.nouns[0].token]
    nearest = []
    for pair in zip(picture.top[0]["layer"], picture.top[0]["neuron"], strict=True):
        nearest.append((table[plain.spoken_ids(pair)] @ noun).max())
    assert rows["neurons"]["sensitivity_top"].iloc[0] == pytest.approx(np.mean(nearest), abs=1e-5)


def test_other_nouns_are_not_in_the_picture(world, plain, rows):
    row = rows["neurons"].iloc[0]
    assert row["other_nouns"] == ["cat"]
    picture = world.picture(0)
    noun = picture.nouns[0]
    (cat,) = plain.words(" cat")["input_ids"]
    embeds = plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9:].tolist())
    best = [
        set(np.argsort(-plain.attribution(embeds, noun.read_pos, token, 9).max(axis=1).ravel(), kind="stable")[:12])
        for token in (noun.token, cat)
    ]
    assert row["overlap_other_nouns"] == pytest.approx(len(best[0] & best[1]) / 12)


def test_a_noun_that_is_not_annotated_has_no_regions(world):
    bare = replace(world.scenes[0], objects=())
    other = World(lens=world.lens, plain=world.plain, scenes=[bare, *world.scenes[1:], world.scenes[0]])
    picture = other.picture(0)
    assert picture.nouns[0].name == "dog"
    found = FollowUps().rows(other.context(picture, SETTINGS))
    assert len(found["regions"]) == 0
    assert len(found["scores"]) == 2


def test_overlaps_across_pictures_are_counted_pair_by_pair():
    generator = np.random.default_rng(0)
    rows = [
        {
            "image_id": i, "noun": "dog" if i < 4 else "cat", "layers": [0] * 10,
            "neurons": generator.choice(30 if i < 4 else 60, 10, replace=False).tolist(), "overlap_other_nouns": 0.1,
            "overlap_chance": 0.02, "sensitivity_top": 0.5, "sensitivity_random": 0.1,
        }
        for i in range(7)
    ]  # fmt: skip
    empty = pd.DataFrame({"image_id": []})
    found = FollowUps().summarise({"regions": empty, "scores": empty, "neurons": pd.DataFrame(rows)}, seed=0)
    frame = found["across pictures"].frame.set_index("compared with")
    shared: dict[tuple[int, bool], list[float]] = {}
    for one, other in itertools.permutations(rows, 2):
        share = len(set(one["neurons"]) & set(other["neurons"])) / 10
        shared.setdefault((one["image_id"], one["noun"] == other["noun"]), []).append(share)
    for same, label in ((True, "another picture, the same noun"), (False, "another picture, another noun")):
        expected = np.mean([np.mean(values) for (_, own), values in shared.items() if own is same])
        assert frame.loc[label, "mean"] == pytest.approx(expected, abs=1e-6)
        assert frame.loc[label, "n"] == 7
    assert "n = 7 pictures" in found["across pictures"].verdict


@pytest.mark.parametrize("bad", [{"covered": 0.0}, {"mean_over": 0}, {"n_other_nouns": 0}])
def test_invalid_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        FollowUpsSettings(**bad)
