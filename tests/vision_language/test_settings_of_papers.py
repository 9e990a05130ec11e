"""One call for each setting of the follow-up papers, against the untouched model with plain PyTorch hooks on pixels."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lens_multimodal import attach_vision, cut_attention
from lens_multimodal.analysis import mean_image_vector, patches_of
from lens_multimodal.image.patch_cover import covered_positions
from tests.vision_language.conftest import Pair, noise
from tests.vision_language.models import build
from tests.vision_language.test_exactness import decoder_layers

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TEXT, TARGET = " what is a dog", 20
PICTURE = noise(0)


@pytest.fixture(scope="module", params=["llava", "llava-next", "smolvlm"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    plain, processor = build(request.param, folder)
    plain.set_attn_implementation("eager")
    model, own = build(request.param, folder)
    return Pair(family=request.param, plain=plain, processor=processor, lens=attach_vision(model, processor=own))


@pytest.fixture
def prompt(pair):
    return pair.lens.prompt(PICTURE, TEXT)


def neurons_on_pixels(pair):
    """`[layer, pos, neuron]`."""
    kept = []
    reads = [layer.mlp.down_proj for layer in decoder_layers(pair.plain)]
    handles = [read.register_forward_pre_hook(lambda _m, args: kept.append(args[0][0])) for read in reads]
    pair.logits(f"IMAGE{TEXT}", [PICTURE])
    for handle in handles:
        handle.remove()
    return torch.stack(kept)


def test_pan_activation_times_decoded_weight_at_the_last_position(pair, prompt):
    head = pair.plain.get_output_embeddings().weight[TARGET]
    decoded = torch.stack([head @ layer.mlp.down_proj.weight for layer in decoder_layers(pair.plain)])
    expected = (neurons_on_pixels(pair)[:, -1] * decoded).flatten().topk(12)
    found = pair.lens.neurons(prompt, TARGET, positions="last", score="activation_x_decoded", top_k=12)
    assert [layer * 40 + n for layer, n in zip(found["layer"], found["neuron"], strict=True)] == expected[1].tolist()
    np.testing.assert_allclose(found["attribution"], expected[0], **CLOSE)
    assert set(found["pos"]) == {prompt.last_pos}


def test_xu_image_and_text_activations_side_by_side(pair, prompt):
    neurons = [(1, 7), (0, 3)]
    table = pair.lens.activations(prompt, neurons)
    own = neurons_on_pixels(pair)
    n_pos = prompt.tokens.shape[1]
    assert list(zip(table["layer"], table["neuron"], strict=True)) == [n for n in neurons for _ in range(n_pos)]
    for layer, neuron in neurons:
        rows = table[(table["layer"] == layer) & (table["neuron"] == neuron)]
        assert rows["pos"].tolist() == list(range(n_pos))
        np.testing.assert_allclose(rows["activation"], own[layer, :, neuron], **CLOSE)
        assert rows["token"].tolist() == pair.lens.to_str_tokens(prompt)
        assert rows.loc[rows["image"] == 0, "pos"].tolist() == prompt.image_pos[0].tolist()
        assert rows.loc[rows["image"] == -1, "pos"].tolist() == prompt.text_pos[0].tolist()
        cells = [prompt.spans[0][0].image.cell(index) or (-1, -1) for index in range(len(prompt.image_pos[0]))]
        assert list(rows.loc[rows["image"] == 0, ["row", "col"]].itertuples(index=False, name=None)) == cells
    with pytest.raises(ValueError, match="2"):
        pair.lens.activations(pair.lens.prompt([PICTURE, noise(1)], TEXT), neurons)


def object_mask():
    mask = np.zeros((60, 96), dtype=bool)
    mask[10:50, 5:45] = True
    return mask


def test_neo_patches_of_an_object_replaced_by_the_mean_vector(pair, prompt):
    span = prompt.spans[0][0]
    share = covered_positions(span.image.layout, object_mask())
    at = patches_of(prompt, object_mask(), covered=0.5)
    assert at.tolist() == [pos for pos, own in zip(span.positions, share, strict=True) if own >= 0.5]
    others = [noise(seed, width=80, height=50) for seed in (3, 4, 5)]
    mean = mean_image_vector(pair.lens, others, batch_size=2)
    vectors = [vectors_on_pixels(pair, own) for own in others]
    assert_close(mean, torch.stack([own.double().mean(dim=0) for own in vectors]).mean(dim=0), **CLOSE)

    def replaced(_module, args, kwargs):
        embedded = kwargs["inputs_embeds"].clone()
        embedded[0, at] = mean.float()
        return args, {**kwargs, "inputs_embeds": embedded}

    before = pair.lens.logits(prompt).detach()
    handle = pair.plain.get_decoder().register_forward_pre_hook(replaced, with_kwargs=True)
    expected = pair.logits(f"IMAGE{TEXT}", [PICTURE])
    handle.remove()
    without = pair.lens.replace_patches(prompt, at, by=mean)
    assert_close(pair.lens.logits(without).detach(), expected, **CLOSE)
    assert (expected - before)[0, -1].abs().max() > 1e-3
    assert_close(pair.lens.logits(prompt).detach(), before)
    assert pair.lens.to_str_tokens(without) == pair.lens.to_str_tokens(prompt)
    assert without.spans[0][0].image.layout == span.image.layout


def vectors_on_pixels(pair, picture):
    """What the model's own forward pass puts at its image tokens."""
    kept = []
    inputs = pair.inputs("IMAGE", [picture])
    handle = pair.plain.get_decoder().register_forward_pre_hook(
        lambda _m, _args, kwargs: kept.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    pair.logits("IMAGE", [picture])
    handle.remove()
    return kept[0][0][inputs["input_ids"][0] == pair.lens.images.image_token_id]


def test_neo_words_are_no_patches(pair, prompt):
    with pytest.raises(ValueError, match=str(prompt.last_pos)):
        pair.lens.replace_patches(prompt, "last", by=torch.zeros(24))
    with pytest.raises(ValueError, match=r"24.*5"):
        pair.lens.replace_patches(prompt, "image", by=torch.zeros(5))
    with pytest.raises(ValueError, match="object"):
        patches_of(prompt, np.zeros((60, 96), dtype=bool))


def test_neo_attention_from_the_last_position_to_an_object_cut_in_some_layers(pair, prompt):
    at, last = patches_of(prompt, object_mask(), covered=0.5), prompt.last_pos

    def cut(_module, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        mask[:, :, last, at] = torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask}

    handle = decoder_layers(pair.plain)[1].self_attn.register_forward_pre_hook(cut, with_kwargs=True)
    expected = pair.logits(f"IMAGE{TEXT}", [PICTURE])
    handle.remove()
    before = pair.lens.logits(prompt).detach()
    with pair.lens.model.hooks(fwd_hooks=cut_attention(pair.lens.model, queries=[last], keys=at, layers=[1])):
        found = pair.lens.logits(prompt).detach()
    assert_close(found, expected, **CLOSE)
    assert (found - before)[0, -1].abs().max() > 1e-4
