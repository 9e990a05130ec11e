"""A failure half way leaves a module as it was."""

import gc
import sys
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from lens_multimodal import attach_vision, transformer
from lens_multimodal.prompt.virtual_tokens import attached_to
from lens_multimodal.transformer.restored_on_failure import restored_on_failure
from tests.lenses import encoder, linear, picture
from tests.models import LAYOUTS, MODEL_CLASSES, random_language_model, wrapped_model
from tests.module_state import assert_as_before, state_of


def given_model(layout: str) -> PreTrainedModel:
    """A model in a user's state: training mode, a user's hook, one frozen weight, Hugging Face's default attention."""
    model = random_language_model(layout)
    model.set_attn_implementation("eager" if layout == "gpt-j" else "sdpa")
    model.train()
    model.get_input_embeddings().weight.requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(lambda _module, _args, out: out)
    return model


@pytest.fixture
def parts(tokenizers):
    return {"vision": encoder(), "projection": linear(), "tokenizer": tokenizers("gpt-j")}


def without_a_say(model: PreTrainedModel) -> PreTrainedModel:
    """The self-check fails: the neurons of the last block write nothing."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".2." in name and name.endswith(("fc_out.weight", "mlp.c_proj.weight", "dense_4h_to_h.weight",
                                                "down_proj.weight", "fc2.weight")):  # fmt: skip
                weight.zero_()
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_refused_part_leaves_the_language_model_alone(layout, parts):
    model = given_model(layout)
    words = torch.arange(3, 9)[None]
    expected = model.eval()(words).logits
    model.train()
    before = state_of(model)
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (ValueError, {"projection": linear(10, 25)}),
        (ValueError, {"projection": linear(11, 24)}),
        (ValueError, {"vision": nn.Conv2d(3, 10, 8, stride=8)}),
        (TypeError, {"projection": torch.zeros(24, 10)}),
        (FileNotFoundError, {"projection": "no such file.ckpt"}),
        (RuntimeError, {"device": "no such device"}),
    ]
    for error, part in wrong:
        with pytest.raises(error):
            attach_vision(model, **{**parts, "dtype": torch.bfloat16, **part})
        assert_as_before(model, before)
    lens = attach_vision(model, **parts)
    torch.testing.assert_close(lens.model(words), expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_failing_self_check_undoes_the_bridge_and_the_cast(layout, parts):
    model = without_a_say(given_model(layout))
    before = [state_of(module) for module in (model, parts["vision"], parts["projection"])]
    with pytest.raises(RuntimeError, match=r"blocks\.2\.mlp\.hook_p"):
        attach_vision(model, **parts, dtype=torch.bfloat16)
    for module, state in zip((model, parts["vision"], parts["projection"]), before, strict=True):
        assert_as_before(module, state)


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_a_failing_self_check_of_a_transformer_lens_model(kind, parts):
    model = wrapped_model(kind, without_a_say(random_language_model("gpt-j")))
    before = state_of(model)
    dtype = model.cfg.dtype
    with pytest.raises(RuntimeError, match=r"blocks\.2\.mlp\.hook_p"):
        attach_vision(model, **parts, dtype=torch.bfloat16)
    assert_as_before(model, before)
    assert model.cfg.dtype == dtype
    assert attached_to(transformer.embedding_module(model)) is None


class InterruptedAt:
    """Raise KeyboardInterrupt when Python enters its n-th function, as Ctrl-C may at any moment.

    The garbage collector waits: it would call functions at moments of its own, and Python swallows what they raise.
    """

    def __init__(self, n: int | None) -> None:
        self.n, self.calls = n, 0

    def __enter__(self) -> "InterruptedAt":
        self.before = sys.gettrace()
        gc.disable()
        sys.settrace(self._entered)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)
        gc.enable()

    def _entered(self, frame: FrameType, _event: str, _argument: object) -> None:
        if frame.f_code.co_name == "<genexpr>":  # also entered when it is freed, where Python swallows what is raised
            return
        self.calls += 1
        if self.calls == self.n:
            sys.settrace(self.before)
            raise KeyboardInterrupt


@pytest.mark.parametrize("layout", ["gpt-2", "llama"])
def test_interrupted_anywhere(layout, parts):
    def attach(model: nn.Module) -> None:
        attach_vision(model, **parts, dtype=torch.float64)

    n_calls = 0
    for _ in range(2):  # the first times, more is imported and cached
        parts = {"vision": encoder(), "projection": linear(), "tokenizer": parts["tokenizer"]}
        model = given_model(layout)
        with InterruptedAt(None) as counted:
            attach(model)
        n_calls = counted.calls
    parts = {"vision": encoder(), "projection": linear(), "tokenizer": parts["tokenizer"]}
    model = given_model(layout)
    before = [state_of(module) for module in (model, parts["vision"], parts["projection"])]
    moments = [round(n_calls * share / 16) for share in range(1, 16)]
    for moment in moments:
        with pytest.raises(KeyboardInterrupt), InterruptedAt(moment):
            attach(model)
        for module, state in zip((model, parts["vision"], parts["projection"]), before, strict=True):
            assert_as_before(module, state)
    attach(model)


def test_interrupted_in_the_self_check_of_a_bridge(parts, monkeypatch):
    model = wrapped_model("bridge", random_language_model("gpt-2"))
    before = state_of(model)

    def interrupted(_model: nn.Module) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lens_multimodal.attach.self_check", interrupted)
        with pytest.raises(KeyboardInterrupt):
            attach_vision(model, **parts)
    assert_as_before(model, before)
    lens = attach_vision(model, **parts)
    prompt = lens.prompt(picture(), " a dog")
    assert lens.logits(prompt).isfinite().all()
    again = state_of(model)
    with pytest.raises(RuntimeError, match="already attached"):
        attach_vision(model, **parts)
    assert_as_before(model, again)  # the first lens stays
    assert lens.logits(prompt).isfinite().all()


def edited_until_it_fails(module: Any) -> None:
    with restored_on_failure(module):
        module.table["list"][1].add(5)
        module.table["list"].append(4)
        module.table["set"].clear()
        module.table["more"] = 1
        module[0] = nn.Linear(3, 3)
        del module[1].running_mean
        module.eval().double().requires_grad_(False)
        module.register_forward_hook(lambda _module, _args, out: out * 2)
        _ = 1 / 0


def test_what_a_module_holds_besides_modules():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    module.table = {"list": [1, {2}], "set": {3}}  # type: ignore[assignment]
    before = state_of(module)
    with pytest.raises(ZeroDivisionError):
        edited_until_it_fails(module)
    assert_as_before(module, before)
    assert module.table == {"list": [1, {2}], "set": {3}}
    with restored_on_failure(module):
        module.double()
    assert module[0].weight.dtype == torch.float64
