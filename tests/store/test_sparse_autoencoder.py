"""A sparse autoencoder trains on the store's batches as they come, and works when spliced back into an image prompt.

SAELens is not a dependency: its test runs where it is installed (with the TransformerLens 3 that it needs).
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.data import read_coco
from lens_multimodal.store import Activations, StoreSettings, write_activations
from lens_multimodal.tiny import scenes_folder

AT = "blocks.3.hook_resid_post"
STEPS, BATCH, EXPANSION = 600, 256, 4


@pytest.fixture(scope="module")
def lens() -> Iterator[VisionLens]:
    with attach_vision() as opened:
        yield opened


@pytest.fixture(scope="module")
def store(lens, tmp_path_factory) -> Activations:
    scenes = read_coco(scenes_folder())[::4]
    return write_activations(lens, scenes[:80], tmp_path_factory.mktemp("store"), StoreSettings(at=AT), progress=False)


class Plain(nn.Module):
    """The sparse autoencoder of dictionary learning: ReLU of a linear map, unit directions, an L1 penalty."""

    def __init__(self, d_in: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.w_dec = nn.Parameter(nn.functional.normalize(torch.randn(EXPANSION * d_in, d_in), dim=-1))
        self.w_enc = nn.Parameter(self.w_dec.detach().T.clone())
        self.b_enc = nn.Parameter(torch.zeros(EXPANSION * d_in))

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu((x - self.b_dec) @ self.w_enc + self.b_enc)

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.w_dec + self.b_dec


def trained_plainly(batches: Iterator[Tensor], d_in: int) -> nn.Module:
    sae = Plain(d_in)
    adam = torch.optim.Adam(sae.parameters(), lr=1e-3)
    for _ in range(STEPS):
        x = next(batches)
        features = sae.encode(x)
        loss = (sae.decode(features) - x).square().sum(-1).mean() + 0.02 * features.sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return sae


def trained_by_saelens(batches: Iterator[Tensor], d_in: int) -> nn.Module:
    pytest.importorskip("sae_lens", reason="SAELens is not installed; it needs TransformerLens 3")
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    config = StandardTrainingSAEConfig(
        d_in=d_in, d_sae=EXPANSION * d_in, l1_coefficient=0.02, decoder_init_norm=1.0, device="cpu"
    )
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=STEPS * BATCH,
            train_batch_size_samples=BATCH,
            lr=3e-3,
            lr_end=3e-4,
            device="cpu",
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=StandardTrainingSAE(config),
        data_provider=batches,
    )
    return trainer.fit()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("train", [trained_plainly, trained_by_saelens])
def test_trained_on_image_positions_and_spliced_back(
    lens: VisionLens, store: Activations, train: Callable[..., nn.Module]
) -> None:
    known = torch.zeros(len(store), dtype=torch.bool)
    known[: len(store) * 3 // 4] = True
    sae = train(store.batches(BATCH, rows=known.nonzero().flatten()), lens.shape.d_model)
    held_out = store.take((~known).nonzero().flatten())
    with torch.no_grad():
        features = sae.encode(held_out)
        unexplained = (sae.decode(features) - held_out).square().sum() / (held_out - held_out.mean(0)).square().sum()
    active = (features > 0).float().mean()
    assert unexplained < 0.3
    assert active < 0.5

    scene = next(s for s in read_coco(scenes_folder()) if s.id == store.pictures[-1])
    prompt = lens.prompt(scene.open(), "A picture of a")
    at = prompt.image_pos[0]
    mean = store.take(known.nonzero().flatten()).mean(0)

    def spliced(resid, hook):
        changed = resid.clone()
        changed[:, at] = sae.decode(sae.encode(resid[:, at]))
        return changed

    def averaged(resid, hook):
        changed = resid.clone()
        changed[:, at] = mean
        return changed

    def divergence(hook_function) -> float:
        """Of the next word's distribution from that of the model as it is, in nats."""
        with lens.model.hooks(fwd_hooks=[(AT, hook_function)]):
            other = lens.logits(prompt)[0, -1].log_softmax(-1)
        own = lens.logits(prompt)[0, -1].log_softmax(-1)
        return float((own.exp() * (own - other)).sum())

    with torch.no_grad():
        assert 0 < divergence(spliced) < divergence(averaged) / 2
