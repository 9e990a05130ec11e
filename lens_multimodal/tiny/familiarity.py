"""How unlike a picture is to the scenes that the tiny trio knows, by its encoder's features.

A picture is summed up by the mean and the standard deviation of each feature over the image patches. Its distance is
the root mean square of these numbers, each counted in standard deviations of the sample scenes. A picture is called
unfamiliar beyond the distance that 1 in 100 scenes exceeds, so about 1 in 100 of the trio's own scenes is a false
alarm, and a picture below it can still be captioned wrongly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.pictures import as_picture
from lens_multimodal.prompt.image_embedder import EncoderAndProjection, ImageEmbedder
from lens_multimodal.tiny import ENCODER_NAME, scenes_folder

FALSE_ALARMS = 0.01
"""Share of the trio's own scenes that are called unfamiliar."""

SCENES = 160
"""Sample scenes that are measured: half for the mean, half for the limit."""

BATCH = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Familiarity:
    """What the encoder's features of the sample scenes look like."""

    encoder: VisionEncoder
    mean: Float[Tensor, " feature"]
    deviation: Float[Tensor, " feature"]
    limit: float

    @classmethod
    def of_scenes(cls, encoder: VisionEncoder) -> "Familiarity":
        """Measured on the sample scenes: one pass of the encoder over `SCENES` of them."""
        files = sorted((scenes_folder() / "images").iterdir())
        files = files[:: max(1, len(files) // SCENES)]
        found = _summaries(encoder, [as_picture(file) for file in files])
        fitted, held = found[::2], found[1::2]
        mean, deviation = fitted.mean(0), fitted.std(0).clamp_min(1e-6)
        limit = _distance(held, mean, deviation).quantile(1 - FALSE_ALARMS)
        return cls(encoder=encoder, mean=mean, deviation=deviation, limit=float(limit))

    def distances(self, pictures: Sequence[Image.Image]) -> Float[Tensor, " picture"]:
        """Of each picture, in the limit: 1 is as far as 1 in 100 scenes."""
        return _distance(_summaries(self.encoder, pictures), self.mean, self.deviation) / self.limit

    def unfamiliar(self, pictures: Sequence[Image.Image]) -> Bool[Tensor, " picture"]:
        """Whether each picture is further than 99 in 100 of the trio's own scenes."""
        return self.distances(pictures) > 1


def familiarity_of(images: ImageEmbedder) -> Familiarity | None:
    """The measure for a lens with the tiny trio's encoder; None for any other, of whose training nothing is known."""
    if not isinstance(images, EncoderAndProjection) or images.vision.name != ENCODER_NAME:
        return None
    return Familiarity.of_scenes(images.vision)


@torch.no_grad()
def _summaries(encoder: VisionEncoder, pictures: Sequence[Image.Image]) -> Float[Tensor, "picture feature"]:
    found = []
    for start in range(0, len(pictures), BATCH):
        features = encoder.features(pictures[start : start + BATCH]).double().cpu()
        found.append(torch.cat([features.mean(1), features.std(1)], dim=-1))
    return torch.cat(found)


def _distance(summaries: Tensor, mean: Tensor, deviation: Tensor) -> Float[Tensor, " picture"]:
    return ((summaries - mean) / deviation).square().mean(-1).sqrt()
