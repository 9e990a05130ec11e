"""See how a text-only transformer sees: images as tokens of any TransformerLens model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lens_multimodal.notebook import find_views_in

if TYPE_CHECKING:
    from lens_multimodal.analysis import (
        decode_neurons,
        faithfulness,
        logit_lens,
        nearest_embeddings,
        neuron_attribution,
        receptive_field,
        top_neurons,
    )
    from lens_multimodal.attach import attach_vision
    from lens_multimodal.hooks import cut_attention, edit_knowledge, patch_resid_pre
    from lens_multimodal.hooks.ablate import ablate
    from lens_multimodal.hooks.steer import scale, steer
    from lens_multimodal.image.encoder import VisionEncoder
    from lens_multimodal.image.preprocessing import Preprocessing
    from lens_multimodal.lens import VisionLens
    from lens_multimodal.prompt.image_prompt import ImagePrompt
    from lens_multimodal.prompt.projection import Projection, load_linear, save_linear
    from lens_multimodal.transformer.hooked_transformer import hooked_gpt_j
    from lens_multimodal.transformer.sampling import Sampling

find_views_in("lens_multimodal.views.notebook")

__version__ = "0.1.0"

__all__ = [
    "ImagePrompt",
    "Preprocessing",
    "Projection",
    "Sampling",
    "VisionEncoder",
    "VisionLens",
    "ablate",
    "attach_vision",
    "cut_attention",
    "decode_neurons",
    "edit_knowledge",
    "faithfulness",
    "hooked_gpt_j",
    "load_linear",
    "logit_lens",
    "nearest_embeddings",
    "neuron_attribution",
    "patch_resid_pre",
    "receptive_field",
    "save_linear",
    "scale",
    "steer",
    "top_neurons",
]

_HOMES = {
    "analysis": (
        "decode_neurons", "faithfulness", "logit_lens", "nearest_embeddings", "neuron_attribution", "receptive_field",
        "top_neurons",
    ),
    "attach": ("attach_vision",),
    "hooks": ("ablate", "cut_attention", "edit_knowledge", "patch_resid_pre", "scale", "steer"),
    "image.encoder": ("VisionEncoder",),
    "image.preprocessing": ("Preprocessing",),
    "lens": ("VisionLens",),
    "transformer.sampling": ("Sampling",),
    "prompt.image_prompt": ("ImagePrompt",),
    "prompt.projection": ("Projection", "load_linear", "save_linear"),
    "transformer.hooked_transformer": ("hooked_gpt_j",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = (
    "analysis",
    "arguments",
    "data",
    "experiments",
    "hooks",
    "image",
    "prompt",
    "store",
    "train",
    "transformer",
    "views",
)
"""Subpackages that can be reached without an import of their own: `lens_multimodal.hooks.ablate`."""


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that the command line's help does not wait for torch."""
    if name in _HOME_OF:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    elif name in _ROOMS:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
