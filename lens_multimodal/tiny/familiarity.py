"""How unlike a picture is to the scenes that the tiny trio knows, by the features of its encoder.

Each image patch is compared with the patches of the sample scenes, as in deep nearest neighbours (Sun et al. 2022,
section 3), on the stream after two thirds of the encoder's blocks: there, textures that no drawing has are still
visible. A picture's distance is the mean over its patches of the cosine distance to the nearest patch of a scene. A
picture is called unfamiliar beyond the distance that 1 in 100 sample scenes exceeds when it is compared with the
others. `python -m recipes.tiny.unfamiliar` measures how often that is wrong on new scenes, and how often other pictures
are recognised. A picture below the limit can still be captioned wrongly, and a plain colour is familiar: scenes have
plain backgrounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from PIL import Image
from timm.models.beit import Beit
from torch import Tensor
from torch.nn.functional import normalize

from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.pictures import as_picture
from lens_multimodal.prompt.image_embedder import EncoderAndProjection, ImageEmbedder
from lens_multimodal.tiny import ENCODER_NAME, read_vision_config, scenes_folder

UNFAMILIAR_BEYOND = "unfamiliar_beyond"
"""Where `vision.json` records the limit."""

EXCEEDED = 0.01
"""Share of the sample scenes that lie beyond the limit."""

FALSE_ALARMS = 0.03
"""Share of new scenes that are called unfamiliar, as measured."""

EVERY = 2
"""Every so many of the sample scenes is measured; more make the start slower."""

BATCH = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Familiarity:
    """What the encoder's features of the sample scenes look like."""

    encoder: VisionEncoder
    patches: Float[Tensor, "scene patch feature"]
    """Of unit length."""
    limit: float
    """A cosine distance."""

    @classmethod
    def of_scenes(cls, encoder: VisionEncoder) -> "Familiarity":
        """For the trio's own encoder, whose limit is recorded beside its weights: one pass over half the scenes."""
        limit = float(read_vision_config()[UNFAMILIAR_BEYOND])
        return cls(encoder=encoder, patches=_patches(encoder, _measured(scenes_folder())), limit=limit)

    def distances(self, pictures: Sequence[Image.Image]) -> Float[Tensor, " picture"]:
        """Of each picture, in the limit: 1 is as far as 1 in 100 sample scenes."""
        found = [_distance(own, self.patches) for own in _patches(self.encoder, pictures)]
        return torch.stack(found) / self.limit

    def unfamiliar(self, pictures: Sequence[Image.Image]) -> Bool[Tensor, " picture"]:
        """Whether each picture is further than 99 in 100 sample scenes."""
        return self.distances(pictures) > 1


def familiarity_of(images: ImageEmbedder) -> Familiarity | None:
    """The measure for a lens with the tiny trio's encoder; None for any other, of whose training nothing is known."""
    if not isinstance(images, EncoderAndProjection) or images.vision.name != ENCODER_NAME:
        return None
    return Familiarity.of_scenes(images.vision)


def measured_limit(encoder: VisionEncoder, scenes: Path) -> float:
    """The distance that 1 in 100 sample scenes exceeds when it is compared with the others.

    Args: scenes: a folder as `scenes_folder` gives it.
    """
    patches = _patches(encoder, _measured(scenes))
    left_out = [_distance(own, torch.cat([patches[:index], patches[index + 1 :]])) for index, own in enumerate(patches)]
    return float(torch.stack(left_out).quantile(1 - EXCEEDED))


def _measured(scenes: Path) -> list[Image.Image]:
    return [as_picture(file) for file in sorted((scenes / "images").iterdir())[::EVERY]]


@torch.no_grad()
def _patches(encoder: VisionEncoder, pictures: Sequence[Image.Image]) -> Float[Tensor, "picture patch feature"]:
    beit = encoder.module
    assert isinstance(beit, Beit)
    weight, depth = beit.patch_embed.proj.weight, 2 * len(beit.blocks) // 3
    found = []
    for start in range(0, len(pictures), BATCH):
        pixels = encoder.preprocessing(pictures[start : start + BATCH]).to(weight)
        streams = beit.forward_intermediates(
            pixels, indices=[depth - 1], stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        found.append(normalize(streams[0].float().cpu(), dim=-1))
    return torch.cat(found)


def _distance(
    patches: Float[Tensor, "patch feature"], known: Float[Tensor, "scene other feature"]
) -> Float[Tensor, ""]:
    return 1 - (patches @ known.flatten(0, 1).T).amax(-1).mean()
