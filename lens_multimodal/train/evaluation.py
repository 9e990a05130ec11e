"""Evaluation during training: captions of a few fixed pictures."""

from collections.abc import Callable, Mapping
from typing import Any

from lens_multimodal.image.pictures import Picture, as_picture
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.image_prompt import PROMPT


def captions_of(
    pictures: Mapping[str, Picture], *, text: str = PROMPT, max_new_tokens: int = 20
) -> Callable[[int, VisionLens], dict[str, Any]]:
    """An `evaluate` for `fit_projection`: greedy captions of these pictures under the current projection.

    Args:
        pictures: pictures by the names to use in the log; each is opened once.
        text: text between the image and the caption, as in training (`FitSettings.prompt`).
        max_new_tokens: of each caption.

    Returns:
        A function of the step and the lens that returns `{"captions": {name: caption}}`.

    Raises: ValueError without a picture, or for one that cannot be read.
    """
    if not pictures:
        raise ValueError("got no picture to caption during training")
    opened = {name: as_picture(picture) for name, picture in pictures.items()}

    def evaluate(_step: int, lens: VisionLens) -> dict[str, Any]:
        found = lens.caption(list(opened.values()), text, max_new_tokens=max_new_tokens)
        return {"captions": dict(zip(opened, found, strict=True))}

    return evaluate
