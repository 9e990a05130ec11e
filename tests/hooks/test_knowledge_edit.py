import copy

import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.hooks import edit_knowledge
from tests.hooks import reference
from tests.hooks.reference import CASES, assert_close, assert_different, wrapped

cases = pytest.mark.parametrize(("layout", "kind"), CASES)
NEURONS = [(1, 4), (0, 7), (1, 30)]


def run(model, prompt):
    with torch.no_grad():
        return transformer.logits_of(model, prompt)


@cases
def test_edited_logits_equal_edited_hugging_face_weights(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    twin = copy.deepcopy(reference.hugging_face(layout))
    unembedding = twin.get_output_embeddings().weight.detach()
    direction = torch.nn.functional.normalize(unembedding[50] - unembedding[20], dim=0)
    for layer, neurons in ((1, [4, 30]), (0, [7])):
        down = twin.get_submodule(f"{reference.BLOCKS[layout]}.{layer}.{reference.MLP_OUT[layout]}")
        rows = down.weight.data if layout == "gpt-2" else down.weight.data.T
        rows[neurons] += 3.0 * rows[neurons].norm(dim=-1, keepdim=True) * direction
    before = run(model, prompt)
    weights = {layer: transformer.w_out(model, layer).detach().clone() for layer in range(3)}
    with edit_knowledge(model, NEURONS, source=20, target=50, strength=3.0):
        assert_close(run(model, prompt), twin(prompt).logits)
        assert_different(run(model, prompt), before)
    assert all(torch.equal(transformer.w_out(model, layer), weights[layer]) for layer in weights)
    assert torch.equal(run(model, prompt), before)


@cases
def test_rows_read_the_target_instead_of_the_source_by_the_stated_amount(layout, kind):
    model = wrapped(layout, kind)
    unembedding = transformer.w_u(model).detach()
    difference = unembedding[:, 50] - unembedding[:, 20]
    old = transformer.w_out(model, 1)[[4, 30]].detach().clone()
    with edit_knowledge(model, [(1, 4), (1, 30)], source=20, target=50, strength=0.5):
        change = (transformer.w_out(model, 1)[[4, 30]].detach() - old) @ difference
        other = transformer.w_out(model, 1).detach()[[3, 5]].clone()
    torch.testing.assert_close(change, 0.5 * old.norm(dim=-1) * difference.norm(), rtol=1e-5, atol=0)
    assert torch.equal(other, transformer.w_out(model, 1)[[3, 5]])


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_return_bit_for_bit_after_an_exception(layout, kind, dtype):
    model = wrapped(layout, kind, dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fail():
        with edit_knowledge(model, NEURONS, source=20, target=50):
            raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        fail()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nested_edits_of_the_same_row_unwind():
    model = wrapped("gpt-2", "bridge")
    before = transformer.w_out(model, 1).detach().clone()
    with edit_knowledge(model, [(1, 4)], source=20, target=50):
        once = transformer.w_out(model, 1).detach().clone()
        with edit_knowledge(model, [(1, 4)], source=3, target=9):
            assert not torch.equal(transformer.w_out(model, 1), once)
        assert torch.equal(transformer.w_out(model, 1), once)
    assert torch.equal(transformer.w_out(model, 1), before)


@pytest.mark.parametrize(
    ("neurons", "source", "target", "message"),
    [
        (NEURONS, 97, 5, r"source=.* token 97 .* 97 tokens \(0 to 96\)"),
        (NEURONS, 5, -1, r"target=.* token -1"),
        (NEURONS, 5, 5, r"target=.* 5"),
        ([], 5, 6, r"neurons="),
    ],
)
def test_wrong_edits_are_refused(neurons, source, target, message):
    model = wrapped("gpt-j", "bridge")
    with (
        pytest.raises(ValueError, match=rf"edit_knowledge\({message}"),
        edit_knowledge(model, neurons, source=source, target=target),
    ):
        pass
