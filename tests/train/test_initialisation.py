"""The initialisation of a fit: vectors that resemble token embeddings."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lens_multimodal import transformer
from lens_multimodal.train import start_like_embeddings
from tests.lenses import random_lens
from tests.models import MODEL_CLASSES


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_vectors_have_the_mean_and_spread_of_the_embeddings(kind: str, tmp_path: Path) -> None:
    lens = random_lens(tmp_path, kind=kind)
    table = transformer.w_e(lens.model).detach().float()
    wide = nn.Linear(300, table.shape[1])
    features = 7 + 3 * torch.randn(4000, 300, generator=torch.Generator().manual_seed(1))
    vectors = start_like_embeddings(wide, lens.model, features)(features).detach()
    torch.testing.assert_close(vectors.mean(0), table.mean(0), atol=1e-5, rtol=0)
    assert float(vectors.var(0).sum()) == pytest.approx(float(table.var(0).sum()), rel=0.1)


def test_the_seed_decides(tmp_path: Path) -> None:
    model = random_lens(tmp_path).model
    d_model = transformer.shape(model).d_model
    features = torch.randn(50, 6)
    one, same, other = (
        start_like_embeddings(nn.Linear(6, d_model), model, features, seed=seed).weight for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_does_not_fit(tmp_path: Path) -> None:
    model = random_lens(tmp_path).model
    d_model = transformer.shape(model).d_model
    with pytest.raises(ValueError, match="from 6 to"):
        start_like_embeddings(nn.Linear(6, d_model), model, torch.randn(50, 7))
    with pytest.raises(ValueError, match="no bias"):
        start_like_embeddings(nn.Linear(6, d_model, bias=False), model, torch.randn(50, 6))
    with pytest.raises(ValueError, match=r"\b50 features"):
        start_like_embeddings(nn.Linear(6, d_model), model, torch.ones(50, 6))
