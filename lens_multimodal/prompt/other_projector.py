"""Another projector in the place of a vision-language model's own."""

import torch
from PIL import Image
from torch import Tensor, nn

from lens_multimodal.prompt.projection import Projection
from lens_multimodal.prompt.vision_tower import VisionTower

BLANK = Image.new("RGB", (64, 64))


@torch.no_grad()
def with_projector(tower: VisionTower, projector: nn.Module) -> VisionTower:
    """The same tower with another projector, on the first one's device and in its precision; `tower` is not changed.

    Raises:
        TypeError, ValueError: as `Projection`.
        ValueError: a projector that does not give as many vectors as the model's own.
    """
    own = tower.projector
    features: list[Tensor] = []
    handle = own.register_forward_pre_hook(lambda _module, args: features.append(args[0]))
    try:
        expected = tower.vectors([BLANK])[0]
    finally:
        handle.remove()
    weight = next(own.parameters())
    projector = projector.to(device=weight.device, dtype=weight.dtype)
    Projection(projector, d_vision=features[0].shape[-1], d_model=expected.shape[-1])
    changed = tower.replaced(list(tower.parts)[-1], projector)
    try:
        found: object = list(changed.vectors([BLANK])[0].shape)
    except (TypeError, RuntimeError) as error:
        found = error
    if found != list(expected.shape):
        raise ValueError(
            f"the projector of {tower.name}, a {type(own).__name__}, does more than map features to the decoder's "
            f"width (it merges image patches, for instance): it gives {list(expected.shape)} where "
            f"{type(projector).__name__} gives {found}; give a module that takes its place as a whole"
        )
    return changed
