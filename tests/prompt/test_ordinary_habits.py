"""NumPy integers wherever integers are accepted, and a prompt passed in place of its tokens."""

import numpy as np
import pytest
import torch

from lens_multimodal import transformer
from tests.lenses import make_lens, picture
from tests.models import MODEL_CLASSES


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_a_prompt_given_to_the_model(kind, tokenizers):
    lens = make_lens("gpt-j", kind, tokenizer=tokenizers("gpt-j"))
    prompt = lens.prompt(picture())
    calls = [lens.model, lens.model.run_with_cache]
    if kind != "hooked":  # whose `generate` looks at the type itself
        calls += [lens.model.original_model, lambda it: lens.model.generate(it, max_new_tokens=1)]
    for call in calls:
        with pytest.raises((TypeError, AttributeError), match=r"prompt\.tokens"):
            call(prompt)
    assert not hasattr(prompt, "shape")


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, torch.tensor])
def test_integers_of_numpy(integer, tokenizers):
    lens = make_lens("gpt-j", "bridge", tokenizer=tokenizers("gpt-j"))
    prompt = lens.prompt([picture(0), picture(1)])
    name = transformer.mlp_post(0)
    assert lens.caption(picture(), max_new_tokens=integer(3)) == lens.caption(picture(), max_new_tokens=3)
    stream = lens.caption_stream([picture(i) for i in range(3)], max_new_tokens=integer(3), batch_size=integer(2))
    assert list(stream) == lens.caption([picture(i) for i in range(3)], max_new_tokens=3)
    assert torch.equal(prompt.row(integer(1)).tokens, prompt.row(1).tokens)
    assert torch.equal(prompt.row(0).followed_by([integer(4)]).tokens, prompt.row(0).followed_by([4]).tokens)
    ours, theirs = (lens.generate_with_activations(prompt.row(0), [name], max_new_tokens=n) for n in (integer(2), 2))
    assert torch.equal(ours.activations[name], theirs.activations[name])
    vectors = torch.randn(1, 6, lens.shape.d_model)
    assert lens.prompt_from_vectors(vectors, grid=(integer(2), integer(3))).grid == (2, 3)
    assert lens.prompt_from_vectors(vectors, grid=np.array([3, 2])).grid == (3, 2)
    assert len(lens.embed([picture()] * 3, batch_size=integer(2))) == 3
    for wrong in (2.0, True, "3"):
        with pytest.raises(TypeError, match="max_new_tokens"):
            lens.caption(picture(), max_new_tokens=wrong)
