import pytest
import torch

from lens_multimodal.arguments import targets as to
from lens_multimodal.arguments.targets import read_targets
from tests.analysis.reference import PROMPT, model_of, plain
from tests.models import wrapped_model
from tests.tokenizers import word_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return wrapped_model("bridge", plain("gpt-j"), word_tokenizer(tmp_path_factory.mktemp("tokenizer")))


LOGITS = torch.randn(7, 97, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mean_of_first_row(logits):
    return logits[0].mean()


@pytest.mark.parametrize(
    ("target", "expected", "pos"),
    [
        (5, LOGITS[-1, 5], 6),
        ((2, 9), LOGITS[2, 9], 2),
        ((-2, 9), LOGITS[5, 9], 5),
        (to.Logit(token=9, pos=0), LOGITS[0, 9], 0),
        (to.CaptionToken(pos=3), LOGITS[2, 90], 2),
        (to.LogitDifference(token=4, other=8), LOGITS[6, 4] - LOGITS[6, 8], 6),
        (to.CentredLogit(token=4, pos=1), LOGITS[1, 4] - LOGITS[1].mean(), 1),
        (to.LogProbability(token=4), LOGITS[6].log_softmax(0)[4], 6),
        (mean_of_first_row, LOGITS[0].mean(), None),
        (to.LogitScalar(function=torch.sum, label="all"), LOGITS.sum(), None),
    ],
)
def test_value(target, expected, pos):
    [resolved] = read_targets(model_of("gpt-j", "bridge"), target, PROMPT)
    torch.testing.assert_close(resolved.value(LOGITS), expected)
    assert resolved.pos == pos


def test_string_is_its_token(model):
    expected = model.tokenizer.convert_tokens_to_ids("Ġdog")
    dog, difference = read_targets(model, [" dog", to.LogitDifference(token=" dog", other=" cat")], PROMPT)
    assert dog.label == "logit of ' dog' at 6"
    assert dog.value(LOGITS) == LOGITS[6, expected]
    assert difference.label == "logit of ' dog' minus ' cat' at 6"


def test_string_of_several_tokens_lists_them(model):
    with pytest.raises(ValueError, match=r"' doge' is 2 tokens.*: ' dog', 'e'"):
        read_targets(model, " doge", PROMPT)


def test_half_precision_is_read_in_float32():
    [target] = read_targets(model_of("gpt-j", "bridge"), to.LogProbability(token=4), PROMPT)
    value = target.value(LOGITS.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LOGITS[6].bfloat16().float().log_softmax(0)[4])


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (97, ValueError, "token 97 .* 97 tokens"),
        (-1, ValueError, "token -1 .* 97 tokens"),
        ((7, 3), ValueError, "position 7 .* 7 positions"),
        ((1, 2, 3), TypeError, r"\(position, token\).*\(1, 2, 3\)"),
        (True, TypeError, "target .* True"),
        (1.5, TypeError, r"target .* 1\.5"),
        ([], ValueError, "no target"),
        (to.CaptionToken(pos=0), ValueError, "position 0 .*predicted"),
        (" dog", ValueError, "no tokenizer.*' dog'"),
        ((2, None), TypeError, "token id .* None"),
    ],
)
def test_bad_targets(target, error, message):
    with pytest.raises(error, match=message):
        read_targets(model_of("gpt-j", "bridge"), target, PROMPT)


def test_function_must_return_a_scalar():
    [target] = read_targets(model_of("gpt-j", "bridge"), lambda logits: logits[0], PROMPT)
    with pytest.raises(TypeError, match=r"scalar tensor.*\[97\]"):
        target.value(LOGITS)
