"""Pictures of a data set as a model takes them: preprocessed in threads, batched in the main thread."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lens_multimodal.data import Scene
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.image.patch_cover import covered_positions
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.image_embedder import EncoderInput, ImageEmbedder
from lens_multimodal.prompt.image_prompt import ImagePrompt


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedPicture:
    """A picture ready for the image encoder."""

    scene: Scene
    picture: Image.Image | None = None
    pixels: EncoderInput | None
    """The image encoder's input; None if the picture cannot be read."""
    error: str = ""
    """Why the picture cannot be read."""
    covered: dict[str, Float[Tensor, " image_pos"]]
    """For each category of the scene, the share of every image patch that its objects cover."""


def open_picture(scene: Scene, images: ImageEmbedder, *, with_objects: bool) -> OpenedPicture:
    """Read, check and preprocess a picture; the segmentations of its objects too if they are wanted."""
    try:
        picture = scene.open()
        preprocessed = images.preprocessed(picture)
        covered = covered_by_objects(scene, layout_of(scene, images)) if with_objects else {}
    except (ValueError, OSError) as error:
        return OpenedPicture(scene=scene, pixels=None, error=str(error), covered={})
    return OpenedPicture(scene=scene, picture=picture, pixels=preprocessed, covered=covered)


def layout_of(scene: Scene, images: ImageEmbedder) -> ImageLayout:
    """What each image position of a scene's picture shows."""
    size = scene.width, scene.height
    return images.layout(*size, n_positions=images.n_positions(*size))


def covered_by_objects(scene: Scene, layout: ImageLayout) -> dict[str, Float[Tensor, " image_pos"]]:
    """For each category of a scene, the share of every image position that its objects cover.

    Args: layout: of this picture, or of another one, to whose size the objects are then stretched.
    Raises: ValueError where it is not known which places in the picture the positions show.
    """
    own = layout.for_picture(scene.width, scene.height)
    return {name: covered_positions(own, scene.seg_mask(name)) for name in scene.categories}


@torch.no_grad()
def prompt_of(lens: CaptioningModel, pictures: Sequence[OpenedPicture], text: str) -> ImagePrompt:
    """The prompt that `lens.prompt` makes of these pictures, which must all be readable."""
    opened = [own.picture for own in pictures if own.picture is not None]
    inputs = [own.pixels for own in pictures if own.pixels is not None]
    images = lens.builder.embed(opened, inputs=inputs, batch_size=len(opened))
    return lens.interleave([[image, text] for image in images])
