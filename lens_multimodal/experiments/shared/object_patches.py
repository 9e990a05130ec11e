"""Image patches under an object of a picture."""

from jaxtyping import Bool
from torch import Tensor

from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.image.patch_cover import covered_positions


def object_patches(picture: PictureState, category: str, covered: float) -> Bool[Tensor, " image_pos"]:
    """Which image positions show a category of the scene; at least one.

    Args: covered: the least share of a patch; if no patch reaches it, the patch with the largest share counts.
    """
    share = covered_positions(picture.layout, picture.scene.seg_mask(category))
    return share >= min(covered, float(share.max()))
