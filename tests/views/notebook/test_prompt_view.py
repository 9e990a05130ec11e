"""An image prompt in a notebook: it shows every position, with the right patch and the model's words."""

import gc
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.beit import Beit

from lens_multimodal import Preprocessing, VisionEncoder, attach_vision
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.prompt.image_prompt import EmbeddedImage
from lens_multimodal.views.notebook.prompt_html import shown_images
from lens_multimodal.views.plots.labels import visible
from tests.lenses import GRID, N_PATCHES, hugging_face, linear, make_lens, picture
from tests.models import wrapped_model
from tests.views.notebook.html_reader import assert_self_contained, read


def test_every_position_is_shown_in_order(lens):
    prompt = lens.prompt(picture(), " dog cat")
    root = read(prompt._repr_html_())
    (strip,) = root.all(".strip")
    assert len(strip.children) == prompt.tokens.shape[1]
    names = lens.to_str_tokens(prompt)
    for pos, piece in enumerate(strip.children):
        if prompt.image_mask[0, pos]:
            assert f"p{pos}" in piece.classes
        else:
            assert piece.text == visible(names[pos])
            assert piece.attributes["title"] == f"position {pos}, token {int(prompt.tokens[0, pos])}"
    assert "1 image; 6 image and 2 text positions" in root.whole_text


def test_pointing_at_a_cell_shows_its_patch_and_words(lens):
    """The rules that do it: a cell, its patch in the strip and its detail belong to one position."""
    prompt = lens.prompt(picture(), " dog")
    html = prompt._repr_html_()
    root = read(html)
    scope = root.children[0].classes[1]
    pos = int(prompt.image_pos[0, 4])
    rule = rf"\.{scope}:has\(\.p{pos}:hover\) \.q{pos}\{{--ring:var\(--accent\);--show:flex\}}"
    assert re.search(rule, html)
    (cell,) = [e for e in root.all(".cell") if f"p{pos}" in e.classes]
    assert cell.attributes["title"] == f"row 1, column 1 (position {pos})"
    (detail,) = [e for e in root.all(".detail") if f"q{pos}" in e.classes]
    vector = prompt.spans[0][0].image.soft_prompt.vectors[4]
    embeddings = torch.nn.functional.normalize(hugging_face("gpt-j").get_input_embeddings().weight.detach(), dim=-1)
    nearest = (embeddings @ vector.detach()).topk(6).indices.tolist()
    assert [tok.text for tok in detail.all(".tok")] == [visible(lens.text.token(i)) for i in nearest]


def test_cells_lie_over_the_encoders_patches(lens):
    prompt = lens.prompt(picture())
    geometry = prompt.spans[0][0].image.geometry
    (image,) = shown_images(prompt, lens)
    assert len(image["cells"]) == N_PATCHES
    for index, cell in enumerate(image["cells"]):
        box = geometry.patch_box(*divmod(index, GRID[1]))
        left, top = re.match(r"left:([\d.]+)%;top:([\d.]+)%", cell["style"]).groups()
        assert float(left) == pytest.approx(100 * box.left / 30, abs=1e-3)
        assert float(top) == pytest.approx(100 * box.top / 20, abs=1e-3)


def test_two_images_and_text_between_them(lens):
    prompt = lens.interleave([[" dog", picture(0), " cat", picture(1)]])
    html = prompt._repr_html_()
    root = read(html)
    assert len(root.all(".pic")) == 2
    assert len(root.all(".cell")) == 2 * N_PATCHES
    assert len(root.all(".strip")[0].children) == prompt.tokens.shape[1]
    assert html.count("url(data:image/jpeg") == 2
    assert_self_contained(html)


def test_a_batch_shows_its_first_row_in_full_and_abbreviates_the_others(lens):
    prompt = lens.prompt([picture(i) for i in range(12)], [" dog", " cat cat", *[" sun"] * 10])
    root = read(prompt._repr_html_())
    assert len(root.all(".cell")) == N_PATCHES
    rows = root.all("tr")
    assert len(rows) == 8
    assert [t.text for t in rows[0].all(".tok")] == ["·cat", "·cat"]
    assert "3 more rows" in root.whole_text
    assert "12 rows, 12 images" in root.whole_text


def test_vectors_without_a_picture(lens):
    prompt = lens.prompt_from_vectors(torch.randn(1, 6, 24), " dog", grid=(3, 2))
    html = prompt._repr_html_()
    root = read(html)
    assert len(root.all(".cell")) == 6
    assert not root.all("img")
    assert "url(" not in html


def test_text_alone_and_text_that_is_long(lens):
    root = read(lens.interleave([[" dog cat"]])._repr_html_())
    assert not root.all(".pic")
    assert "0 images; 0 image and 2 text positions" in root.whole_text


def test_the_prompt_does_not_keep_the_lens_alive(tokenizers):
    lens = make_lens("gpt-j", "bridge", tokenizer=tokenizers("gpt-j"))
    prompt = lens.prompt(picture(), " dog")
    gone = weakref.ref(lens)
    del lens
    gc.collect()
    assert gone() is None
    root = read(prompt._repr_html_())
    assert "the lens of this prompt no longer exists" in root.whole_text
    assert len(root.all(".cell")) == N_PATCHES
    assert len(root.all(".pic")) == 1


def test_a_picture_whose_patches_have_no_place_is_shown_without_cells(lens):
    image = replace(lens.embed([picture()])[0], placing=ImageLayout.one_grid(*GRID))
    root = read(lens.interleave([[image, " dog"]])._repr_html_())
    assert not root.all(".cell")
    assert len(root.all(".pic")) == 1


def test_a_model_without_a_tokenizer():
    lens = make_lens("gpt-j", "bridge")
    root = read(lens.prompt(picture(), "")._repr_html_())
    assert re.fullmatch(r"(<\d+>){6}", "".join(t.text for t in root.all(".detail")[0].all(".tok")))


def test_gradients_and_half_precision_are_shown_too(lens_of):
    lens = lens_of(dtype=torch.float64)
    prompt = lens.prompt(picture(), " dog", with_gradient=True)
    assert len(read(prompt._repr_html_()).all(".detail")) == N_PATCHES
    assert prompt.spans[0][0].image.soft_prompt.vectors.grad is None


def test_a_prompt_of_196_patches_stays_small(tokenizers):
    """GPT-J's grid and words, over a picture of pure noise, which compresses worst."""
    torch.manual_seed(0)
    module = Beit(
        img_size=112, patch_size=8, embed_dim=10, depth=1, num_heads=2, num_classes=0, init_values=0.5
    )  # fmt: skip
    encoder = VisionEncoder(module, preprocessing=Preprocessing(height=112, width=112))
    model = wrapped_model("bridge", hugging_face("gpt-j"), tokenizer=tokenizers("gpt-j"))
    model.cfg.n_ctx = 200  # the prompt is shown, never run
    lens = attach_vision(model, vision=encoder, projection=linear(), tokenizer=tokenizers("gpt-j"))
    noise = picture(height=480, width=640)
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(196, 24))).float()
    layout = ImageLayout.one_grid(14, 14, encoder.geometry(640, 480))
    image = EmbeddedImage(soft_prompt=lens.virtual_tokens.store(vectors), placing=layout, picture=noise)
    prompt = lens.interleave([[image, " dog cat sun"]])
    html = prompt._repr_html_()
    assert len(read(html).all(".detail")) == 196
    assert len(html.encode()) < 200_000
