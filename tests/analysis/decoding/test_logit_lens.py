import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis import logit_lens
from tests.analysis.reference import PROMPT, each_case, model_of


@each_case
def test_equals_unembedding_every_depth(layout, kind):
    model = model_of(layout, kind)
    found = logit_lens(model, PROMPT, [8, 21], [6, 2, 4], chunk=2)
    names = [transformer.resid_pre(0), *(transformer.resid_post(layer) for layer in range(3))]
    with torch.no_grad(), transformer.capture(model, names) as kept:
        logits = transformer.logits_of(model, PROMPT)[0]
    assert found.rank.shape == found.probability.shape == found.logit.shape == (2, 4, 3)
    with torch.no_grad():
        for depth, name in enumerate(names):
            read = transformer.unembed(model, kept[name])[0, [6, 2, 4]]
            assert torch.equal(found.top_token[depth], read.argmax(-1))
            for index, token in enumerate([8, 21]):
                torch.testing.assert_close(
                    found.probability[index, depth], read.softmax(-1)[:, token], rtol=1e-5, atol=1e-8
                )
                order = read.sort(dim=-1, descending=True).indices
                assert torch.equal(found.rank[index, depth], (order == token).int().argmax(-1))
    torch.testing.assert_close(found.logit[0, 3], logits[[6, 2, 4], 8], rtol=1e-5, atol=1e-5)
    assert found.positions.tolist() == [6, 2, 4]


def test_first_depth():
    model = model_of("gpt-j", "bridge")
    lens = logit_lens(model, PROMPT, [8, 21, 50])
    for within in (1, 10, 97):
        first = lens.first_depth(within=within)
        for token in range(3):
            for pos in range(7):
                reached = [d for d in range(4) if lens.rank[token, d, pos] < within]
                assert first[token, pos] == (reached[0] if reached else -1)
    assert (lens.first_depth(within=97) == 0).all()
    with pytest.raises(ValueError, match=r"within .* 0$"):
        lens.first_depth(within=0)


def test_one_token_has_the_same_axes():
    lens = logit_lens(model_of("gpt-j", "bridge"), PROMPT, 8, [3])
    assert lens.token_ids == (8,)
    assert lens.rank.shape == (1, 4, 1)


def test_bad_arguments():
    model = model_of("gpt-j", "bridge")
    with pytest.raises(ValueError, match=r"logit_lens\(token=.* 97 tokens"):
        logit_lens(model, PROMPT, 97)
    with pytest.raises(ValueError, match=r"logit_lens\(positions=.* position 9"):
        logit_lens(model, PROMPT, 8, [9])
    with pytest.raises(ValueError, match=r"logit_lens\(token="):
        logit_lens(model, PROMPT, [])
