"""What an atlas measures."""

from dataclasses import dataclass

from lens_multimodal.arguments.boundary import ArgumentValueError
from lens_multimodal.arguments.units import Layers
from lens_multimodal.prompt.image_prompt import PROMPT

NETWORK_DISSECTION = 0.995
"""A neuron is on at the 0.5 % of image patches that drive it most (Bau et al. 2017, section 2.2)."""

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
"""Further quantiles of each neuron's activations at which precision and recall are measured."""

SAVE_EVERY = 120.0
"""Seconds between saves of all counts."""


@dataclass(frozen=True, kw_only=True)
class AtlasSettings:
    """The settings that decide an atlas' numbers.

    Raises: ArgumentValueError for values outside their range.
    """

    layers: Layers = None
    """Whose neurons; None for all."""
    quantile: float = NETWORK_DISSECTION
    """A neuron is on above this quantile of its activations over image patches (Bau et al. 2017: 0.995)."""
    n_calibration: int = 256
    """Pictures, the first of the random order, from which the quantiles are taken; they are exact if these are all."""
    n_top: int = 16
    """Pictures kept for each neuron."""
    n_ablations: int = 4
    """The largest number of nouns on which the ablation of a found neuron is measured; only nouns of the pictures."""
    text: str = PROMPT
    """After the image. With causal attention it changes nothing at image positions; it only has to be there."""
    batch_size: int = 32
    """Pictures in one forward pass. Other sizes change the last bits of activations."""
    pictures_per_chunk: int = 256
    """Pictures that one process takes at a time; half of them are lost on average when it is killed, or what was done
    since the last save."""
    seed: int = 0
    """Of the order of the pictures, and with it of the sample and the halves."""

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ArgumentValueError(f"expected a number between 0 and 1, got {self.quantile}", "quantile")
        if self.n_ablations < 0:
            raise ArgumentValueError(f"must be at least 0, got {self.n_ablations}", "n_ablations")
        for name in ("n_calibration", "n_top", "batch_size", "pictures_per_chunk"):
            if getattr(self, name) < 1:
                raise ArgumentValueError(f"must be at least 1, got {getattr(self, name)}", name)

    @property
    def levels(self) -> tuple[float, ...]:
        """All quantiles that are measured, ascending; `quantile` is one of them."""
        return tuple(sorted({*LEVELS, self.quantile}))

    @property
    def on(self) -> int:
        """Index of the level above which a neuron is on."""
        return self.levels.index(self.quantile)
