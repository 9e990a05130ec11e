"""Coordinates in which a projection learns fast: the directions of the features that tell the captions' nouns apart.

A map that is trained through a frozen language model sees each feature's share of a noun only through much noise, and
the encoder's features vary most where they say least. So the features are first turned, linearly, into one number for
each noun: how much they speak for it, by a multinomial regression from a scene's patches to the nouns of its caption.
The patches' scores are pooled by log-sum-exp: one patch that shows an object is enough to name it, and patches that
show none learn to be quiet. No mask and no position is used. The projection is trained on these numbers from a random
start, on next-token loss alone, and then multiplied out: what ships is one linear map of the encoder's features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal.model.vision import VisionEncoder
from lens_multimodal.train import CaptionBatch
from recipes.tiny.scenes import words_of

EPOCHS = 6
ROWS = 512
RATE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """`(features - mean) @ axes`."""

    mean: Float[Tensor, " d_vision"]
    axes: Float[Tensor, "d_vision coordinate"]

    def fold(self, linear: nn.Linear) -> nn.Linear:
        """The map from features that equals `linear` on coordinates."""
        folded = nn.Linear(len(self.mean), linear.out_features)
        with torch.no_grad():
            weight = linear.weight.double().cpu() @ self.axes.double().T
            folded.weight.copy_(weight)
            folded.bias.copy_(linear.bias.double().cpu() - weight @ self.mean.double())
        return folded


class InCoordinates(VisionEncoder):
    """An encoder whose features are turned into coordinates."""

    def __init__(self, encoder: VisionEncoder, coordinates: Coordinates) -> None:
        nn.Module.__init__(self)
        self.encoder = encoder
        self.module = encoder.module
        self.d_vision = coordinates.axes.shape[1]
        self.grid_h, self.grid_w = encoder.grid_h, encoder.grid_w
        self.preprocessing, self.name = encoder.preprocessing, f"{encoder.name} in coordinates"
        self.register_buffer("mean", coordinates.mean)
        self.register_buffer("axes", coordinates.axes)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.encoder(pixels)
        with torch.autocast(features.device.type, enabled=False):
            return (features.float() - self.mean) @ self.axes


def caption_coordinates(
    encoder: VisionEncoder, batches: Iterator[CaptionBatch], nouns: Sequence[str], *, scenes: int, seed: int
) -> Coordinates:
    """Fit the regression on this many scenes; each coordinate has a mean of 0 and a typical size of 1 at a patch."""
    features, truth = _read(encoder, batches, nouns, scenes)
    some = features[:ROWS].float().flatten(0, 1)
    mean, spread = some.mean(0), some.std(0).clamp(min=1e-6)
    axes = (_regress(features, truth, mean, spread, seed=seed) / spread).T
    axes = axes - axes.mean(dim=1, keepdim=True)
    return Coordinates(mean=mean, axes=(axes / ((some - mean) @ axes).std(0).mean()).contiguous())


@torch.no_grad()
def _read(
    encoder: VisionEncoder, batches: Iterator[CaptionBatch], nouns: Sequence[str], scenes: int
) -> tuple[Tensor, Tensor]:
    """Features of scenes in half precision, `(scene, patch, d_vision)`, and the shares of nouns in their captions."""
    place = {noun: column for column, noun in enumerate(nouns)}
    features, truth = [], []
    while sum(map(len, features)) < scenes:
        batch = next(batches)
        features.append(encoder(batch.pixels).half().cpu())
        shares = torch.zeros(len(batch.captions), len(nouns))
        for row, caption in enumerate(batch.captions):
            said = [place[word] for word in words_of(caption) if word in place]
            shares[row, said] = 1 / max(1, len(said))
        truth.append(shares)
    return torch.cat(features), torch.cat(truth)


def _regress(
    features: Tensor, truth: Tensor, mean: Tensor, spread: Tensor, *, seed: int
) -> Float[Tensor, "noun d_vision"]:
    """Multinomial regression on standardised patches, by minibatch Adam with a falling rate."""
    linear = nn.Linear(features.shape[-1], truth.shape[1])
    nn.init.zeros_(linear.weight)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=RATE, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    parts = [part for _ in range(EPOCHS) for part in torch.randperm(len(features), generator=generator).split(ROWS)]
    for done, rows in enumerate(parts):
        optimizer.param_groups[0]["lr"] = RATE * (1 - done / len(parts))
        scores = linear((features[rows].float() - mean) / spread).logsumexp(dim=1)
        F.cross_entropy(scores, truth[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return linear.weight.detach()
