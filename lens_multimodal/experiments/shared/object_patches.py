"""Image patches under an object of a picture."""

from jaxtyping import Bool
from torch import Tensor

from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.image.patch_cover import covered_positions, mostly_covered


def object_patches(picture: PictureState, category: str, covered: float) -> Bool[Tensor, " image_pos"]:
    """Which image positions show a category of the scene, as in `mostly_covered`."""
    return mostly_covered(covered_positions(picture.layout, picture.scene.seg_mask(category)), covered)
