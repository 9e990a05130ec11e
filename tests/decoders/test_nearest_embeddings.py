"""The tokens nearest to image vectors are those by cosine with what plain transformers looks up."""

import torch
from torch.nn import functional

from lens_multimodal.analysis import nearest_embeddings
from tests.decoders.cases import case, difference, each_family, image_vectors
from tests.decoders.plain_models import plain
from tests.models import D_VOCAB

TOP = 5


@each_family
def test_nearest_embeddings_are_those_of_the_lookup(name):
    vectors = image_vectors(name)[0]
    table = plain(name).get_input_embeddings()(torch.arange(D_VOCAB)).to(vectors)
    expected = functional.cosine_similarity(vectors[:, None], table[None], dim=-1).topk(TOP)
    found = nearest_embeddings(case(name).lens.model, vectors, top_k=TOP)
    assert torch.equal(found.tokens, expected.indices)
    assert difference(found.values, expected.values) < 1e-6
