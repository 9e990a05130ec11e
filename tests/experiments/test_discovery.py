"""Tables of found neurons recomputed with plain transformers and NumPy."""

import numpy as np
import pandas as pd
import pytest

from lens_multimodal.analysis import is_word
from lens_multimodal.experiments.discovery import Discovery, DiscoverySettings
from lens_multimodal.experiments.shared.picture_statistics import needed
from lens_multimodal.experiments.shared.word_agreement import EmbeddingSpace, first_distinct, word_match


@pytest.fixture(scope="module")
def rows(world):
    return world.rows(Discovery(), DiscoverySettings(n_tokens=10))


def test_neurons_have_the_plain_attribution_place_and_words(world, plain, rows):
    picture = world.picture(0)
    noun = picture.nouns[0]
    embeds = plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9:].tolist())
    scores = plain.attribution(embeds, noun.read_pos, noun.token, 9)
    for row in rows["neurons"].itertuples():
        own = scores[row.layer, :, row.neuron]
        assert row.attribution == pytest.approx(own.max(), rel=1e-4, abs=1e-10)
        assert own[row.row * 3 + row.col] == pytest.approx(own.max(), rel=1e-6)
        assert row.tokens == plain.spoken((row.layer, row.neuron))
        assert row.interpretable == (sum(map(is_word, row.tokens)) >= 7)
        assert row.says_noun == (" dog" in row.tokens)


def test_nouns_have_the_plain_probability(world, plain, rows):
    picture = world.picture(0)
    embeds = plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9:].tolist())
    for row in rows["nouns"].itertuples():
        assert row.probability == pytest.approx(plain.probabilities(embeds)[row.read_pos, row.token], rel=1e-6)
        assert row.logit == pytest.approx(plain.logits(embeds)[row.read_pos, row.token], rel=1e-6)


def test_groups_count_what_the_plain_words_say(world, plain, rows):
    picture = world.picture(0)
    for kind, table in (("top", picture.top[0]), ("random", picture.random[0])):
        spoken = [plain.spoken(pair) for pair in zip(table["layer"], table["neuron"], strict=True)]
        row = rows["groups"].set_index("neurons").loc[kind]
        assert row["n"] == len(table)
        assert row["says_noun"] == pytest.approx(np.mean([" dog" in tokens for tokens in spoken]))
        assert row["interpretable"] == pytest.approx(np.mean([sum(map(is_word, t)) >= 7 for t in spoken]))


def test_agreement_is_the_plain_greedy_match_of_centred_embeddings(plain, rows):
    table = plain.model.transformer.wte.weight.numpy()
    table = table - table.mean(axis=0)
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    (dog,) = plain.words(" dog")["input_ids"]
    id_of = {plain.words.decode([i]): i for i in range(len(plain.words))}
    for row in rows["agreement"].itertuples():
        ids = [id_of[token] for token in row.tokens]
        cosine = table[ids] @ table[[dog]].T
        assert row.precision == pytest.approx(cosine.max(axis=1).mean(), abs=1e-5)
        assert row.recall == pytest.approx(cosine.max(axis=0).mean(), abs=1e-5)
        assert row.human_hits == pytest.approx(np.mean([token == " dog" for token in row.tokens]))
        assert row.bertscore is None
        assert row.clipscore is None


def test_all_sources_say_equally_many_different_tokens(rows):
    said = rows["agreement"].set_index("source")["tokens"]
    assert set(said.index) == {"neurons", "random neurons", "image prompts", "random tokens", "caption"}
    for source in said.index.drop("caption"):
        assert len(said[source]) == 10


def test_captions_are_the_plain_models_and_kept_with_their_picture(world, plain, rows):
    row = rows["captions"].iloc[0]
    prompt = plain.words("A picture of")["input_ids"]
    said = plain.caption(plain.vectors(world.scenes[0].path), prompt, 4)
    assert row["caption"] == plain.words.decode(said, skip_special_tokens=True).strip()
    assert row["caption"].startswith("dog")
    assert (row["human_caption"], row["file_name"], row["categories"]) == ("A picture of a dog.", "10.png", ["dog"])
    assert row["right"]


def test_summaries_state_their_pictures_and_layers(world):
    parts = [Discovery().rows(world.context(picture, DiscoverySettings())) for picture in map(world.picture, range(6))]
    rows = {name: pd.concat([part[name] for part in parts if len(part[name])]) for name in Discovery.tables}
    found = Discovery().summarise(rows, seed=0)
    n = rows["groups"]["image_id"].nunique()
    said = f"No verdict: {n} " if n < needed() else f"n = {n} pictures"
    assert said in found["words"].verdict
    assert found["layers"].frame["layer"].max() == 2, "layers without a found neuron are shown as well"
    shares = found["layers"].frame.query("neurons == 'top'")["mean"]
    assert shares.sum() == pytest.approx(1.0)
    counted = rows["neurons"].groupby(["layer", "neuron"])["image_id"].nunique()
    assert found["distinct"].frame["distinct"].iloc[0] == len(counted)
    assert found["captions"].n_pictures == 6


@pytest.mark.parametrize(
    ("layers", "said", "answer"),
    [
        (
            [0, 1, 1, 2],
            "100 % [100, 100] of a picture's top neurons are in the first third of the 9 layers",
            "no, the opposite",
        ),
        ([4, 7, 7, 8], "They lie DEEP", "yes"),
        ([0, 4, 8], "A difference is NOT established", "not established"),
    ],
)
def test_all_layers_are_shown_and_the_verdict_says_whether_the_neurons_lie_deep(layers, said, answer):
    neurons = [
        {"image_id": i, "layer": layer, "neuron": j, "interpretable": False}
        for i in range(9)
        for j, layer in enumerate(layers)
    ]
    empty = pd.DataFrame({"image_id": []})
    captions = pd.DataFrame({"image_id": range(9), "right": True, "n_layers": 9})
    given = {"groups": empty, "neurons": pd.DataFrame(neurons), "agreement": empty, "nouns": empty}
    found = Discovery().summarise({**given, "captions": captions}, seed=0)["layers"]
    assert found.frame["layer"].tolist() == list(range(9))
    assert found.frame["mean"].tolist() == pytest.approx([layers.count(n) / len(layers) for n in range(9)])
    assert said in found.verdict
    assert found.conclusion.answer == answer
    assert found.verdict.endswith("(n = 9 pictures).")


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (
            1,
            "Captions MOSTLY DO NOT name something that is in the picture: 10 % [0, 30] of them do (n = 10 pictures): ",
        ),
        (5, "It is NOT established whether most captions name something that is in the picture: 50 % ["),
        (10, "Captions MOSTLY name something that is in the picture: 100 % [100, 100] of them do (n = 10 pictures)."),
    ],
)
def test_the_report_says_how_often_the_captions_are_right(right, said):
    empty = pd.DataFrame({"image_id": []})
    captions = pd.DataFrame({"image_id": range(10), "right": [i < right for i in range(10)], "n_layers": 9})
    given = dict.fromkeys(("groups", "neurons", "agreement", "nouns"), empty)
    found = Discovery().summarise({**given, "captions": captions}, seed=0)
    assert next(iter(found)) == "captions"
    assert found["captions"].verdict.startswith(said)
    few = Discovery().summarise({**given, "captions": captions.head(5)}, seed=0)
    assert few["captions"].verdict.startswith("No verdict: 5 ")


def test_first_distinct_goes_rank_by_rank():
    assert first_distinct([[5, 6, 7], [5, 8]], 4) == [5, 6, 8, 7]
    assert first_distinct([], 3) == []


def test_agreement_of_nothing_is_unknown(world):
    space = EmbeddingSpace.of(world.lens.model)
    assert np.isnan(space.agreement([], [3])).all()
    assert np.isnan(word_match([], {"dog"})).all()
    assert space.agreement([3, 4], [3, 4]) == pytest.approx((1.0, 1.0, 1.0))


def test_scores_that_need_a_model_say_which_folder_is_missing(world):
    picture = world.picture(0)
    settings = DiscoverySettings(bertscore_model="nowhere/bert")
    with pytest.raises(FileNotFoundError, match="nowhere/bert"):
        Discovery().rows(world.context(picture, settings))
