"""Image prompts read as words, recomputed by NumPy."""

import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal.experiments.image_prompts_as_words import Projection, ProjectionSettings
from lens_multimodal.experiments.shared.random_parts import random_projection


@pytest.fixture(scope="module")
def rows(world):
    return world.rows(Projection(), ProjectionSettings(n_tokens=12))


def of(rows, source: str, way: str) -> pd.DataFrame:
    table = rows["positions"]
    return table[(table["source"] == source) & (table["way"] == way)]


def test_nearest_tokens_are_those_of_the_plain_cosine(world, plain, rows):
    vectors = plain.vectors(world.scenes[0].path)
    for vector, row in zip(vectors, of(rows, "image prompts", "embedding").itertuples(), strict=True):
        ids, values = plain.nearest(vector)
        assert row.token_ids == ids
        assert row.best == pytest.approx(values[0], abs=1e-5)


def test_the_unembedding_reads_what_plain_norm_and_head_read(world, plain, rows):
    logits = plain.unembedded(plain.vectors(world.scenes[0].path))
    for own, row in zip(logits, of(rows, "image prompts", "unembedding").itertuples(), strict=True):
        assert row.token_ids == np.argsort(-own, kind="stable")[:10].tolist()
        assert row.best == pytest.approx(own.max(), rel=1e-5)


def test_hits_are_words_among_the_ten(rows):
    for row in rows["positions"].itertuples():
        assert row.human_noun == (" dog" in row.tokens)
        assert row.caption_noun == (" dog" in row.tokens)
        assert (row.shows == "dog") == ((row.row, row.col) == (1, 1))
        assert row.shown_noun == (" dog" in row.tokens if isinstance(row.shows, str) else None)


def test_agreement_is_the_plain_match_of_the_first_different_tokens(world, plain, rows):
    nearest = [plain.nearest(vector)[0] for vector in plain.vectors(world.scenes[0].path)]
    said: list[int] = []
    for rank in range(10):
        for ids in nearest:
            if ids[rank] not in said and len(said) < 12:
                said.append(ids[rank])
    row = rows["agreement"].set_index("source").loc["image prompts"]
    assert list(row["tokens"]) == [plain.words.decode([token]) for token in said]
    (dog,) = plain.words(" dog")["input_ids"]
    table = plain.model.transformer.wte.weight.numpy()
    table = table - table.mean(axis=0)
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosine = table[said] @ table[dog]
    precision, recall = cosine.mean(), cosine.max()
    assert row["precision"] == pytest.approx(precision, abs=1e-5)
    assert row["recall"] == pytest.approx(recall, abs=1e-5)
    f1 = 2 * precision * recall / (precision + recall) if min(precision, recall) > 0 else 0.0
    assert row["f1"] == pytest.approx(f1, abs=1e-5)
    assert row["human_found"] == float(dog in said)


def test_random_tokens_are_as_many_and_fixed_by_the_picture(world, rows):
    drawn = of(rows, "random tokens", "drawn")["token_ids"].tolist()
    assert [len(ids) for ids in drawn] == [10] * 9
    picture = world.picture(0)
    again = Projection().rows(world.context(picture, ProjectionSettings(n_tokens=12)))
    assert of(again, "random tokens", "drawn")["token_ids"].tolist() == drawn


def test_the_random_projection_keeps_scale_and_loses_weights(world):
    context = world.context(world.picture(0), ProjectionSettings())
    twin, trained = (p.linear.weight.detach() for p in (random_projection(context).projection, world.lens.projection))
    assert random_projection(context) is random_projection(context)
    assert float(twin.std() / trained.std()) == pytest.approx(1.0, abs=0.3)
    assert abs(float(torch.corrcoef(torch.stack([twin.flatten(), trained.flatten()]))[0, 1])) < 0.4


@pytest.mark.parametrize(("prompts", "random", "said"), [(0.5, 0.0, "have MORE"), (0.01, 0.01, "is NOT established")])
def test_the_verdict_follows_the_numbers(prompts, random, said):
    generator = np.random.default_rng(0)
    rows = [
        {
            "image_id": image, "source": source, "way": way, "human_noun": hit, "caption_noun": hit, "shown_noun": hit,
        }
        for image in range(12)
        for source, way, share in (("image prompts", "embedding", prompts), ("random tokens", "drawn", random))
        for hit in (generator.random(30) < share).tolist()
    ]  # fmt: skip
    empty = pd.DataFrame({"image_id": []})
    found = Projection().summarise({"positions": pd.DataFrame(rows), "agreement": empty}, seed=0)
    assert said in found["positions"].verdict
    assert "n = 12 pictures" in found["positions"].verdict
    assert set(found["positions"].frame["tokens"]) == {"image prompts, nearest embedding", "random tokens"}
    few = pd.DataFrame([row for row in rows if row["image_id"] < 5])
    verdict = Projection().summarise({"positions": few, "agreement": empty}, seed=0)["positions"].verdict
    assert verdict.startswith("No verdict: 5 ")
