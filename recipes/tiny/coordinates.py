"""Coordinates in which a projection learns fast: the directions of the features that separate the captions' nouns.

The gradient through a frozen language model is a noisy signal of how much each feature contributes to a noun, and the
encoder's features vary most in directions that carry little about nouns. The features are therefore first mapped
linearly to one number per noun: by least squares from every single patch to the nouns of its scene's caption, how much
more than usual the caption is about that noun. Patches unrelated to the nouns come out near zero; for other patches the
right noun is more distinct than after a regression that only needs to rank it first. Neither masks nor positions are
used. The projection is trained on these numbers from a random initialisation, with next-token loss alone, and the two
maps are then multiplied: what ships is one linear map of the encoder's features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.train import CaptionBatch
from recipes.tiny.scenes import words_of

RIDGE = 1e-4
"""Added to the features' covariance, as a share of its mean variance, so that inactive units are ignored."""


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
    """An encoder whose features are mapped to coordinates."""

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


@torch.no_grad()
def caption_coordinates(
    encoder: VisionEncoder, batches: Iterator[CaptionBatch], nouns: Sequence[str], *, scenes: int
) -> Coordinates:
    """Least squares over this many scenes; each coordinate has a mean of 0 and a typical size of 1 at a patch.

    Only sums over patches are kept, in float64, so memory does not grow with the number of scenes.
    """
    width, patches, seen = encoder.d_vision, encoder.grid_h * encoder.grid_w, 0
    where = next(encoder.parameters()).device
    sums = torch.zeros(width + len(nouns), dtype=torch.float64, device=where)
    products = torch.zeros(len(sums), len(sums), dtype=torch.float64, device=where)
    while seen < scenes * patches:
        batch = next(batches)
        shares = noun_shares(batch.captions, nouns).to(where)[:, None].expand(-1, patches, -1)
        rows = torch.cat([encoder(batch.pixels).float(), shares], dim=-1).flatten(0, 1)
        sums += rows.sum(0)
        products += rows.T @ rows
        seen += len(rows)
    means = sums / seen
    covariances = products / seen - means[:, None] * means
    covariance, towards = covariances[:width].split([width, len(nouns)], dim=1)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(width, dtype=torch.float64, device=where)
    axes = torch.linalg.solve(covariance + ridge, towards)
    size = ((covariance @ axes) * axes).sum(0).clamp(min=0).sqrt().mean()
    return Coordinates(mean=means[:width].float().cpu(), axes=(axes / size).float().cpu())


def noun_shares(captions: Sequence[str], nouns: Sequence[str]) -> Float[Tensor, "caption noun"]:
    """The share of each noun among the nouns of a caption."""
    place = {noun: column for column, noun in enumerate(nouns)}
    shares = torch.zeros(len(captions), len(nouns))
    for row, caption in enumerate(captions):
        said = [place[word] for word in words_of(caption) if word in place]
        for column in said:
            shares[row, column] += 1 / len(said)
    return shares
