"""Pictures of a data set as a model takes them: preprocessed in threads, batched in the main thread."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal.data import Scene
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.patch_cover import covered_share
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.image_prompt import ImagePrompt


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedPicture:
    """A picture ready for the image encoder."""

    scene: Scene
    pixels: Float[Tensor, "3 height width"] | None
    """None if the picture cannot be read, or if only its objects are wanted."""
    error: str = ""
    """Why the picture cannot be read."""
    covered: dict[str, Float[Tensor, " patch"]]
    """For each category of the scene, the share of every image patch that its objects cover."""


def open_picture(scene: Scene, vision: VisionEncoder, *, with_objects: bool, pixels: bool = True) -> OpenedPicture:
    """Read, check and preprocess a picture; the segmentations of its objects too if they are wanted.

    Args: pixels: False to read only the objects.
    """
    try:
        preprocessed = vision.preprocessing([scene.open()])[0] if pixels else None
        geometry = vision.geometry(scene.width, scene.height)
        covered = {
            category: covered_share(geometry, scene.seg_mask(category)).flatten()
            for category in (scene.categories if with_objects else ())
        }
    except (ValueError, OSError) as error:
        return OpenedPicture(scene=scene, pixels=None, error=str(error), covered={})
    return OpenedPicture(scene=scene, pixels=preprocessed, covered=covered)


@torch.no_grad()
def prompt_of(lens: CaptioningModel, pictures: Sequence[OpenedPicture], text: str) -> ImagePrompt:
    """The prompt that `lens.prompt` makes of these pictures, which must all be readable.

    Raises: ValueError if the projection does not give one vector for each image patch.
    """
    pixels = torch.stack([picture.pixels for picture in pictures if picture.pixels is not None])
    like = next(lens.vision.parameters(), torch.empty(0))
    vectors = lens.projection(lens.vision(pixels.to(device=like.device, dtype=like.dtype)))
    if vectors.shape[1] != lens.vision.n_patches:
        raise ValueError(
            f"the projection gives {vectors.shape[1]} vectors for each picture and the encoder has "
            f"{lens.vision.n_patches} image patches: activations cannot be assigned to image patches"
        )
    return lens.prompt_from_vectors(vectors, text, grid=(lens.vision.grid_h, lens.vision.grid_w))
