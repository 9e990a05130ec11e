"""A vision-language model that is spread over devices gives the same numbers as on one device.

The devices are pretended (`tests.pretend_devices`); accelerate's own hooks spread the model, as `device_map` does.
"""

import warnings

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from torch.testing import assert_close

from lens_multimodal import ablate, attach_vision, decode_neurons, logit_lens, transformer
from lens_multimodal.analysis import neuron_activations
from tests.pretend_devices import pretend_devices
from tests.vision_language.conftest import noise
from tests.vision_language.models import build

EYES, LOWER, UPPER = "fpga:0", "fpga:1", "fpga:2"
EXACT = {"rtol": 0, "atol": 1e-5}
TEXT, TARGET, NEURONS = " what is a dog", 20, [(0, 3), (1, 7)]


@pytest.fixture(scope="module", autouse=True)
def devices():
    with pretend_devices():
        yield


def places(model):
    """The image encoder on one device, the embedding and the first layer on another, the rest on a third."""
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    where = {f"{decoder}.embed_tokens": LOWER, f"{decoder}.rotary_emb": LOWER, f"{decoder}.layers.0": LOWER}
    where |= {f"{decoder}.layers.1": UPPER, f"{decoder}.norm": UPPER, "lm_head": UPPER}
    others = (name for name, _ in model.model.named_children() if f"model.{name}" != decoder)
    marks = (name for name, _ in model.model.named_parameters(recurse=False))  # LLaVA-NeXT's at the end of a row
    return where | {f"model.{name}": EYES for name in (*others, *marks)}


@pytest.fixture(scope="module", params=["llava", "llava-next", "smolvlm"])
def lenses(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (spread, processor), (whole, own) = build(request.param, folder), build(request.param, folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following device_map keys")  # marks are not modules
        spread = dispatch_model(spread, places(spread), force_hooks=True)
    for name, mark in list(spread.model.named_parameters(recurse=False)):
        setattr(spread.model, name, torch.nn.Parameter(mark.detach().to(EYES), requires_grad=False))
    return attach_vision(spread, processor=processor), attach_vision(whole, processor=own)


def everything(lens):
    prompt = lens.prompt([noise(0), noise(1, width=40, height=90)], TEXT)
    alone = lens.prompt(noise(0), TEXT)
    neurons = lens.neurons(alone, TARGET, top_k=6)
    at = alone.image_pos[0]
    with lens.model.hooks(fwd_hooks=ablate(lens.model, NEURONS, positions=at)):
        without = lens.logits(alone).detach()
    return {
        "logits": lens.logits(prompt).detach(),
        "ablated": without,
        "neurons": torch.tensor(neurons[["layer", "neuron"]].to_numpy()),
        "attribution": torch.tensor(neurons["attribution"].to_numpy()),
        "activations": neuron_activations(lens.model, alone.tokens, NEURONS, at),
        "words": torch.tensor(decode_neurons(lens.model, NEURONS)["token_ids"].tolist()),
        "lens": logit_lens(lens.model, alone.tokens, TARGET, at).logit,
        "tokens": transformer.generate(lens.model, alone.tokens, max_new_tokens=5, stop_ids=[])[:, -5:],
    }


def test_the_parts_lie_apart(lenses):
    spread, _ = lenses
    assert {str(weight.device) for part in spread.images.parts.values() for weight in part.parameters()} == {EYES}
    assert [str(transformer.w_out(spread.model, layer).device) for layer in (0, 1)] == [LOWER, UPPER]


def test_numbers_are_those_of_one_device(lenses):
    spread, whole = (everything(lens) for lens in lenses)
    for name, expected in whole.items():
        assert_close(spread[name].to("cpu"), expected.to("cpu"), **EXACT, msg=lambda text, name=name: f"{name}: {text}")


def test_layouts_are_those_of_one_device(lenses):
    spread, whole = (lens.embed([noise(0)])[0].layout for lens in lenses)
    assert spread == whole


@pytest.mark.parametrize("family", ["llava", "blip-2"])
def test_weights_that_are_offloaded_are_refused(family, tmp_path):
    model, processor = build(family, tmp_path)
    cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="meta"):
        attach_vision(model, processor=processor)
