"""Which object made a prompt or its images. Kept here, so that neither holds a reference to its maker."""

import weakref
from typing import Generic, TypeVar

from lens_multimodal.prompt.image_prompt import ImagePrompt

Maker = TypeVar("Maker")


class Makers(Generic[Maker]):
    """Weak references both ways: neither a prompt nor its maker keeps the other alive."""

    def __init__(self) -> None:
        self._by_made: weakref.WeakKeyDictionary[object, weakref.ref[Maker]] = weakref.WeakKeyDictionary()

    def remember(self, prompt: ImagePrompt, maker: Maker) -> None:
        """Note who made a prompt and its soft prompts."""
        for made in _parts(prompt):
            self._by_made[made] = weakref.ref(maker)

    def of(self, prompt: ImagePrompt) -> Maker | None:
        """The maker of a prompt or of its images, or None if it no longer exists in this process."""
        makers = (self._by_made[made]() for made in _parts(prompt) if made in self._by_made)
        return next((maker for maker in makers if maker is not None), None)


def _parts(prompt: ImagePrompt) -> list[object]:
    return [prompt, *(span.image.soft_prompt for spans in prompt.spans for span in spans)]
