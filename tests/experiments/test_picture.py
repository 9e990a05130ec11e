"""What experiments share, computed independently: caption, nouns, neurons; and the rule that finds nouns."""

from dataclasses import replace

import numpy as np
import pytest

from lens_multimodal.data import Scene
from lens_multimodal.experiments.shared.nouns import noun_finder, says, singular
from lens_multimodal.experiments.shared.picture_state import PictureSettings, with_control
from lens_multimodal.image.patch_cover import covered_positions


@pytest.mark.parametrize("index", range(3))
def test_vectors_and_caption_are_those_of_the_plain_model(world, plain, index):
    picture = world.picture(index)
    vectors = plain.vectors(picture.scene.path)
    np.testing.assert_allclose(picture.vectors.detach().numpy(), vectors, atol=1e-6)
    assert picture.caption_ids == plain.caption(vectors, plain.words("A picture of")["input_ids"], 4)


def test_nouns_stand_where_the_plain_model_predicts_them(world, plain):
    picture = world.picture(0)
    noun = picture.nouns[0]
    embeds = plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9:].tolist())
    assert int(plain.logits(embeds)[noun.read_pos].argmax()) == noun.token
    assert (noun.token_text, noun.n_tokens, noun.in_picture) == (" dog", 1, True)


def test_ranked_neurons_are_those_of_the_plain_gradient(world, plain):
    picture = world.picture(0)
    noun = picture.nouns[0]
    embeds = plain.embeds(plain.vectors(picture.scene.path), picture.tokens[0, 9:].tolist())
    scores = plain.attribution(embeds, noun.read_pos, noun.token, 9)
    best = scores.max(axis=1).ravel()
    order = np.argsort(-best, kind="stable")[: picture.settings.top_k]
    top = picture.top[0]
    assert (top["layer"] * 40 + top["neuron"]).tolist() == order.tolist()
    np.testing.assert_allclose(top["attribution"], best[order], rtol=1e-4, atol=1e-9)
    assert top["pos"].iloc[0] == scores[0, :, 7].argmax()


def test_decoded_words_are_those_of_the_plain_product(world, plain):
    picture = world.picture(0)
    for (layer, neuron), row in picture.decoded.iloc[:10].iterrows():
        assert list(row["tokens"]) == plain.spoken((layer, neuron))


def test_random_neurons_are_of_the_same_layers_and_none_of_the_top(world):
    picture = world.picture(0)
    top, random = picture.top[0], picture.random[0]
    assert random["layer"].value_counts().to_dict() == top["layer"].value_counts().to_dict()
    pairs = [set(zip(t["layer"], t["neuron"], strict=True)) for t in (top, random)]
    assert not pairs[0] & pairs[1]


def test_nothing_depends_on_the_batch_size_or_on_other_pictures(world):
    first = world.picture(0, batch_size=1)
    world.picture(1).top  # noqa: B018
    second = world.picture(0)
    assert first.random[0].equals(second.random[0])
    assert first.caption == second.caption


def test_the_control_ends_where_a_layer_is_half_taken(world):
    ranked = world.picture(0).ranked[0]
    kept = with_control(world.lens.model, ranked)
    assert len(kept) < len(ranked) == 120
    assert kept["layer"].value_counts().max() == 20
    following = ranked.iloc[: len(kept) + 1]
    assert following["layer"].value_counts().max() == 21


def test_a_caption_without_nouns_gives_no_neurons(world):
    picture = next(p for p in map(world.picture, range(6)) if not p.nouns)
    assert picture.top == ()
    assert picture.targets == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"top_k": 0}, "top_k .* 1, got 0"),
        ({"n_ranked": 5}, r"n_ranked \(5\) .*top_k \(100\)"),
        ({"score": "magic"}, "score 'magic'.* activation_x_gradient"),
    ],
)
def test_invalid_settings_are_refused(bad, said):
    with pytest.raises(ValueError, match=said):
        PictureSettings(**bad)


def test_patches_under_an_object_by_counting_pixels(world):
    picture = world.picture(2)
    share = covered_positions(picture.layout, picture.scene.seg_mask("dog")).reshape(3, 3).numpy()
    counted = picture.scene.seg_mask("dog").reshape(3, 16, 3, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(share, counted, atol=1e-6)
    with pytest.raises(ValueError, match=r"5 x 5 .* 48 x 48"):
        covered_positions(picture.layout, np.ones((5, 5), dtype=bool))


def names(finder, text: str) -> list[str]:
    return [noun.name for noun in finder(text)]


def captioned(like: Scene, categories: tuple[str, ...], *captions: str) -> Scene:
    """A scene of other objects and captions; its picture is not used."""
    objects = tuple(replace(like.objects[0], category=category) for category in categories)
    return replace(like, objects=objects, captions=captions)


@pytest.fixture(scope="module")
def finder(world):
    like = world.scenes[0]
    coco = (
        captioned(
            like, ("person", "skateboard"), "A man riding a skateboard on a wooden ramp.", "A man is on the ramp."
        ),
        captioned(like, ("traffic light", "bus"), "Two buses near a traffic light.", "A red bus and a tall building."),
        captioned(like, ("knife", "dining table"), "Knives on a table next to a building.", "a photo of a red table"),
    )
    return noun_finder(world.lens, coco)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a man with a skateboard", ["man", "skateboard"]),
        ("two men and some Buses", ["man", "bus"]),
        ("the traffic lights over a bus", ["traffic light", "bus"]),
        ("a tall building by the ramp", ["building", "ramp"]),
        ("a photo of a red table", ["table"]),
        ("knives, knives and a knife", ["knife"]),
        ("traffic. light", []),
        ("red and wooden", []),
        ("", []),
    ],
)
def test_nouns_of_real_captions(finder, text, found):
    assert names(finder, text) == found


def test_nouns_know_their_category_and_place(finder):
    man, table = finder("A man at the table")
    assert (man.category, man.text, man.start, man.stop) == ("person", "man", 2, 5)
    assert table.category == "dining table"


def test_every_category_of_the_data_set_is_found(world):
    every = noun_finder(world.lens, world.scenes)
    assert names(every, "a dog near a cat") == ["dog", "cat"]
    assert every.of_scene(world.scenes[0]) == ("dog",)


@pytest.mark.parametrize(
    ("plural", "one"),
    [("dogs", "dog"), ("glass", "glass"), ("buses", "bus"), ("houses", "house"), ("horses", "horse"),
     ("leaves", "leaf"), ("cherries", "cherry"), ("boxes", "box"), ("watches", "watch"), ("potatoes", "potato"),
     ("shoes", "shoe"), ("scissors", "scissors"), ("bus", "bus"), ("is", "is")],
)  # fmt: skip
def test_singulars(plural, one):
    assert singular(plural) == one


def test_tokens_say_nouns_whatever_their_case_and_number():
    assert says(" Dogs", {"dog"})
    assert says("traffic", {"traffic light"})
    assert not says(" light", {"traffic light"})
    assert not says(" ", {"dog"})
