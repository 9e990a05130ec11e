"""Image patches under an object, and the vector that stands for no object in particular (Neo et al. 2024)."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.image.patch_cover import covered_positions, mostly_covered
from lens_multimodal.image.pictures import Picture, picture_batches
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.image_prompt import ImagePrompt


@public
def patches_of(
    prompt: ImagePrompt, seg_mask: Bool[np.ndarray, "height width"], *, covered: float | int = 0.5
) -> Int[Tensor, " pos"]:
    """Positions of a prompt whose image patches an object covers.

    Args:
        prompt: of one row and one image.
        seg_mask: of the object, of the picture's size (`scene.seg_mask("dog")`).
        covered: least share of a patch; if no patch reaches it, those with the largest share count.

    Raises: ValueError for several images, a mask of another size or without a pixel, or an image whose positions show
        no place in a picture.
    """
    spans = [span for row in prompt.spans for span in row]
    if len(spans) != 1:
        raise ArgumentValueError(f"expected a prompt of one image, got {len(spans)}", "prompt")
    share = covered_positions(spans[0].image.layout, seg_mask)
    if not len(share) or not float(share.max()) > 0:
        raise ArgumentValueError("no image patch shows any of the object", "seg_mask")
    return torch.tensor(spans[0].positions)[mostly_covered(share, covered)]


@public
@torch.no_grad()
def mean_image_vector(
    lens: CaptioningModel, pictures: Iterable[Picture], *, batch_size: int = 32
) -> Float[Tensor, " d_model"]:
    """Mean over some pictures of the mean over their image vectors, in float64 on the CPU.

    Raises: ValueError without a picture, or for one that cannot be read.
    """
    total, count = torch.zeros(lens.shape.d_model, dtype=torch.float64), 0
    for batch in picture_batches(pictures, batch_size=batch_size, progress=False):
        for vectors in lens.images.vectors(batch):
            total += vectors.double().mean(dim=0).cpu()
            count += 1
    if not count:
        raise ArgumentValueError("expected at least one picture", "pictures")
    return total / count
