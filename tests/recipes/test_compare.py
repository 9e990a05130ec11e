"""The table of trios: its intervals, and its measurements against plain hooks on the trio that ships."""

import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from lens_multimodal import VisionLens, tiny
from lens_multimodal.analysis import decode_neurons, top_neurons
from recipes.tiny.compare import findings, markdown, rate
from recipes.tiny.evaluate.translation import right_singles, translation, translation_by_scene
from recipes.tiny.sample_scene import Scene, of_split, read_scenes


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return of_split(read_scenes(tiny.scenes_folder()), "train")[:3]


@pytest.fixture(scope="module")
def trio() -> VisionLens:
    from recipes.tiny.evaluate import open_trio

    return open_trio(tiny.FOLDER)


@pytest.mark.parametrize(("right", "of"), [(0, 10), (10, 10), (3, 17), (200, 400)])
def test_the_interval_of_a_rate_is_wilsons(right: int, of: int) -> None:
    wanted = binomtest(right, of).proportion_ci(method="wilson")
    assert rate([True] * right + [False] * (of - right)) == f"{right / of:.1%} [{wanted.low:.1%}, {wanted.high:.1%}]"


def test_columns_of_several_trios_share_their_rows() -> None:
    table = markdown({"one": {"a": "1", "b": "2"}, "other": {"a": "3"}})
    assert table.splitlines() == ["|  | one | other |", "| --- | --- | --- |", "| a | 1 | 3 |", "| b | 2 |  |"]


@pytest.mark.slow
def test_what_is_measured_on_a_scene_equals_plain_hooks(trio: VisionLens, scenes: list[Scene]) -> None:
    found = translation_by_scene(trio, scenes)
    pairs = right_singles(trio, scenes)
    assert len(found) == len(pairs) > 0
    scene, prompt = pairs[0]
    word = f" {scene.nouns[0]}"
    top = trio.neurons(prompt, word, top_k=20)
    token = trio.text.token_id(word)

    def zeroed(activation: torch.Tensor, layer: int) -> torch.Tensor:
        changed = activation.clone()
        for neuron in top.loc[top["layer"] == layer, "neuron"]:
            changed[:, prompt.image_pos[0], neuron] = 0
        return changed

    names = {layer: f"blocks.{layer}.mlp.hook_post" for layer in top["layer"].unique()}
    hooks = [(name, lambda a, hook, layer=layer: zeroed(a, layer)) for layer, name in names.items()]
    with torch.no_grad():
        whole = trio.logits(prompt)[0, -1].softmax(-1)[token]
        with trio.model.hooks(fwd_hooks=hooks):
            left = trio.logits(prompt)[0, -1].softmax(-1)[token]
    assert found["left without top 20"][0] == pytest.approx(float(left / whole), rel=1e-4)
    layers = top["layer"].head(5)
    for layer in range(trio.shape.n_layers):
        assert found[f"top five in layer {layer}"][0] == pytest.approx(float((layers == layer).mean()))
    spoken = top_neurons(trio.model, prompt.tokens, token, [prompt.tokens.shape[1] - 1], top_k=20)
    written = any(token in ids for ids in decode_neurons(trio.model, spoken)["token_ids"])
    assert found["noun written at the last position, top"][0] == written
    embeddings = trio.model.W_E[: trio.shape.d_vocab]
    covered = scene.covered(trio.vision.grid_h, trio.vision.grid_w).flatten()
    vectors = trio.projection(trio.vision.features([scene.picture]))[0][covered]
    near = torch.cosine_similarity(vectors[:, None], embeddings[None], dim=-1).argmax(dim=-1)
    assert found["nearest"][0] == pytest.approx(float((near == token).float().mean()))


@pytest.mark.slow
def test_the_card_has_the_means(trio: VisionLens, scenes: list[Scene]) -> None:
    by_scene, means = translation_by_scene(trio, scenes), translation(trio, scenes)
    assert means["scenes"] == len(by_scene)
    left = means["probability left after ablation"]
    assert left["top 100"] == pytest.approx(by_scene["left without top 100"].mean())
    assert set(left) == {f"{who} {n}" for who in ("top", "random") for n in (20, 100, 300)}
    assert sum(means["layers of the top five neurons"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_a_column_has_a_figure_for_every_finding(scenes: list[Scene]) -> None:
    nouns = sorted({noun for scene in scenes for noun in scene.nouns})
    column = findings(tiny.FOLDER, {"known": scenes}, nouns=nouns, translated=2)
    assert all(isinstance(figure, str) for figure in column.values())
    assert len(column) == 14 - 2, "two of the three kinds of drawings were not given"
    assert pd.Series(column).str.contains("random").sum() == 6
