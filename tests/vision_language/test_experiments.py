"""The experiments and their report on models that read tiles, with and without marks, or number rows and columns."""

import pandas as pd
import pytest
import torch

from lens_multimodal import attach_vision
from lens_multimodal.data import read_coco
from lens_multimodal.reproduction import reproduce
from lens_multimodal.tiny import scenes_folder
from tests.vision_language.models import build

pytestmark = pytest.mark.newest

SETTINGS = {
    "picture": {"max_new_tokens": 3, "top_k": 8, "n_ranked": 40},
    "causal": {"counts": (2, 4), "caption_counts": (2,)},
}


@pytest.mark.parametrize("family", ["llava-next", "idefics3", "qwen2.5-vl"])
def test_every_experiment_runs(family, tmp_path):
    model, processor = build(family, tmp_path)
    lens = attach_vision(model, processor=processor)
    scenes = [scene for scene in read_coco(scenes_folder()) if "dog" in scene.categories][:2]
    _say(lens, " dog", scenes)
    assert lens.caption(scenes[0].path, "A picture of", max_new_tokens=1) == "dog"
    reproduce(lens, data=scenes, out=tmp_path / "run", progress=False, settings=SETTINGS)
    assert not (tmp_path / "run" / "errors.jsonl").read_text()
    tables = {path.stem: pd.read_parquet(path) for path in (tmp_path / "run" / "tables").glob("*.parquet")}
    for name in ("discovery.neurons", "projection.positions", "causal.ablations", "controls.conditions", "depth.lens"):
        assert len(tables[name]), name
    assert {"random projection", "random encoder"} <= set(tables["controls.conditions"]["condition"])

    positions = tables["projection.positions"]
    for scene in scenes:
        image = lens.embed([scene.path])[0]
        own = positions.query("image_id == @scene.id and source == 'image prompts' and way == 'embedding'")
        expected = [image.cell(index) or (-1, -1) for index in range(len(image))]
        assert list(zip(own["row"], own["col"], strict=True)) == expected


def _say(lens, word, scenes):
    """Let the model's next token be this word: its unembedding becomes what the final norm gives there."""
    (token,) = lens.text.encode(word)
    head = lens.images.model.get_output_embeddings()
    kept = []
    handle = head.register_forward_pre_hook(lambda _m, args: kept.append(args[0][0, -1].detach()))
    for scene in scenes:
        lens.logits(lens.prompt(scene.path))
    handle.remove()
    with torch.no_grad():
        head.weight[token] = 5 * torch.stack(kept).mean(dim=0)
