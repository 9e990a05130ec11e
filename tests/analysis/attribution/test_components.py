import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis import head_attribution, neuron_attribution, position_attribution
from tests.analysis.reference import (
    PROMPT,
    each_case,
    head_readers,
    inputs_and_gradients,
    model_of,
    plain,
)


@each_case
def test_heads_equal_plain_transformers(layout, kind):
    found = head_attribution(model_of(layout, kind), PROMPT, [8, (3, 21)], [6, 3, 1])
    assert found.shape == (2, 3, 3, 2)
    model = plain(layout)
    for part, (pos, token) in zip(found, [(-1, 8), (3, 21)], strict=True):
        kept, gradients = inputs_and_gradients(
            model, head_readers(model), PROMPT, lambda logits, pos=pos, token=token: logits[0, pos, token]
        )
        expected = torch.stack(
            [(a * g)[0].unflatten(-1, (2, 12)).sum(-1) for a, g in zip(kept, gradients, strict=True)]
        )
        torch.testing.assert_close(part, expected[:, [6, 3, 1]], rtol=1e-5, atol=1e-6)


@each_case
def test_positions_equal_finite_differences(layout, kind):
    model = model_of(layout, kind)
    found = position_attribution(model, PROMPT, 8)[0]
    assert found.shape == (3, 7)
    step = 1e-2
    for layer, pos in [(0, 2), (1, 6), (2, 4)]:

        def moved(sign, layer=layer, pos=pos):
            def move(activation, hook):
                result = activation.clone()
                result[:, pos] *= 1 + sign * step
                return result

            with torch.no_grad(), transformer.fired_hooks(model, [(transformer.resid_pre(layer), move)]):
                return transformer.logits_of(model, PROMPT)[0, -1, 8]

        slope = (moved(1) - moved(-1)) / (2 * step)
        torch.testing.assert_close(found[layer, pos], slope, rtol=1e-2, atol=2e-4)


def test_position_attribution_of_the_last_layer_is_at_the_target_and_what_it_attends_to():
    found = position_attribution(model_of("gpt-j", "bridge"), PROMPT, (4, 8))[0]
    assert (found[:, 5:] == 0).all()
    assert (found[:, :5] != 0).all()


def test_layers_select():
    model = model_of("llama", "bridge")
    torch.testing.assert_close(
        position_attribution(model, PROMPT, 8, layers=[1]), position_attribution(model, PROMPT, 8)[:, 1:2]
    )
    torch.testing.assert_close(
        head_attribution(model, PROMPT, 8, layers=[2]), head_attribution(model, PROMPT, 8)[:, 2:]
    )


def test_heads_and_neurons_share_their_errors():
    for function in (head_attribution, position_attribution, neuron_attribution):
        with pytest.raises(ValueError, match="vocabulary of 97"):
            function(model_of("gpt-j", "bridge"), PROMPT, 97)
