"""The order in which the pictures of a data set are taken."""

from collections.abc import Sequence

from lens_multimodal.data import Scene
from lens_multimodal.seeds import seed_for


def in_order(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """A random order of the scenes that does not depend on a limit, so that every prefix is a random sample."""
    return sorted(scenes, key=lambda scene: (seed_for(seed, "order", scene.id), scene.id))
