"""Activation patching sweeps: where does copying one activation from a clean run restore the clean answer?

For every cell (a layer and a position, a head, a neuron) the corrupted prompt is run once with that one activation
taken from the clean run: "clean into corrupted". Cells share forward passes as rows of a batch. Every result also
carries *attribution patching* (Nanda 2023), the first-order estimate of all cells from one backward pass,

    estimate = (clean activation - corrupted activation) . d target / d activation,   at the corrupted run,

and how well the two agree: where they do, the estimate can replace sweeps that are too large to run.

    sweep = act_patch_resid_pre(model, dog.tokens, cat.tokens, " dog")
    sweep.recovered        # [layer, pos]: 1 where the clean answer is fully restored
    sweep.correlation      # of the estimate with the measured effect

All take two prompts, `[1, pos]` each, a target (most often a token, whose logit at the last position is read), and the
settings of `SweepSettings`. Prompts may differ in length if the positions that belong together are listed:

    act_patch_resid_pre(
        model, dog.tokens, cat.tokens, " dog", positions=cat.image_pos[0], source_positions=dog.image_pos[0]
    )

Two rows of one left-padded prompt are matched from the right; give their masks as `clean_mask` and `corrupted_mask`.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from itertools import product
from typing import Concatenate, ParamSpec, TypedDict

from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import Unpack

from lens_multimodal import transformer
from lens_multimodal.analysis.patching.patch_sweep import PatchSweep
from lens_multimodal.analysis.patching.sweep_runs import Site, SweepRuns
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions
from lens_multimodal.arguments.targets import Targets
from lens_multimodal.arguments.units import Layers, Neurons, read_layers, read_neuron_pairs

P = ParamSpec("P")


class SweepSettings(TypedDict, total=False):
    """Settings that every sweep takes."""

    positions: Positions
    """Of the corrupted prompt, to be patched; None for all that are not padding."""
    source_positions: Positions
    """Of the clean prompt, whose activations they get, one by one; None for the same. For prompts of unequal length."""
    clean_mask: Tensor | None
    corrupted_mask: Tensor | None
    """Attention masks `[1, pos]`, zero at left padding, such as `prompt.attention_mask[:1]`. None without padding."""
    batch_size: int
    """Patched runs in one forward pass, 32 if not given; memory grows with it (logits: batch_size * pos * d_vocab)."""


def _sweep_layers(
    site: Site,
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Targets,
    *,
    layers: Layers = None,
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    runs = SweepRuns.of(model, clean_tokens, corrupted_tokens, target, **settings)
    chosen = list(read_layers(model, layers))
    if not site.heads:
        return runs.sweep(site, {"layer": chosen}, [(layer, None) for layer in chosen])
    heads = list(range(transformer.shape(model).n_heads))
    return runs.sweep(site, {"layer": chosen, "head": heads}, list(product(chosen, heads)))


def _sweep_neurons(
    site: Site,
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Targets,
    *,
    neurons: Neurons,
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    runs = SweepRuns.of(model, clean_tokens, corrupted_tokens, target, **settings)
    pairs = read_neuron_pairs(model, neurons)
    return runs.sweep(site, {"neuron": pairs}, pairs)


def _public_sweep(
    name: str, sweep: Callable[Concatenate[Site, P], PatchSweep], site: Site, doc: str
) -> Callable[P, PatchSweep]:
    """A sweep over one site as a public function with the sweep's own signature."""

    def over_site(*args: P.args, **kwargs: P.kwargs) -> PatchSweep:
        return sweep(site, *args, **kwargs)

    whole = signature(sweep)
    parameters = list(whole.parameters.values())[1:]
    vars(over_site)["__signature__"] = whole.replace(parameters=parameters)
    over_site.__name__ = over_site.__qualname__ = name
    over_site.__doc__ = doc
    return public(over_site)


act_patch_resid_pre = _public_sweep(
    "act_patch_resid_pre",
    _sweep_layers,
    Site(name="resid_pre", name_of=transformer.resid_pre),
    """Patch the residual stream entering each layer at each position, one cell at a time.

    Args:
        layers: None for all.
        settings: see `SweepSettings`.
    Returns: a sweep over `layer` and `pos`.
    Raises: ValueError for prompts of unequal length without listed positions, or a target, layers or positions that do
        not exist; FloatingPointError if a target's value is not finite.
    Cost: one forward row for each cell, and one backward pass for the estimate.
    """,
)
act_patch_mlp_out = _public_sweep(
    "act_patch_mlp_out",
    _sweep_layers,
    Site(name="mlp_out", name_of=transformer.mlp_out),
    """Patch the output of each MLP at each position; settings as in `act_patch_resid_pre`.""",
)
act_patch_attn_out = _public_sweep(
    "act_patch_attn_out",
    _sweep_layers,
    Site(name="attn_out", name_of=transformer.attn_out),
    """Patch the output of each layer's attention at each position; settings as in `act_patch_resid_pre`.""",
)
act_patch_heads = _public_sweep(
    "act_patch_heads",
    _sweep_layers,
    Site(name="heads", name_of=transformer.head_z, heads=True, by_position=False),
    """Patch each attention head at all chosen positions together: a sweep over `layer` and `head`.""",
)
act_patch_heads_by_position = _public_sweep(
    "act_patch_heads_by_position",
    _sweep_layers,
    Site(name="heads", name_of=transformer.head_z, heads=True),
    """Patch each attention head at each position: a sweep over `layer`, `head` and `pos`.""",
)
act_patch_neurons = _public_sweep(
    "act_patch_neurons",
    _sweep_neurons,
    Site(name="neurons", name_of=transformer.mlp_post, by_position=False),
    """Patch each of some neurons at all chosen positions together: a sweep over `neuron`.""",
)
act_patch_neurons_by_position = _public_sweep(
    "act_patch_neurons_by_position",
    _sweep_neurons,
    Site(name="neurons", name_of=transformer.mlp_post),
    """Patch each of some neurons at each position: a sweep over `neuron` and `pos`.""",
)


@public
def attribution_patch(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Targets,
    names: Sequence[str],
    **settings: Unpack[SweepSettings],
) -> dict[str, Float[Tensor, "pos ..."]]:
    """Attribution patching of whole activations: the estimated effect of every number in them.

    Sum over what is patched together: over d_model for a position, over d_head for a head.

    Args: names: hook names, such as `transformer.mlp_post(layer)` for all layers.
    Returns: by hook name, the activation's layout without batch and padding, in float32 or wider; NaN at positions
        that were not chosen.
    Cost: two forward passes and one backward for all hook points together.
    """
    runs = SweepRuns.of(model, clean_tokens, corrupted_tokens, target, **settings)
    return runs.estimates(runs.clean_activations(list(dict.fromkeys(names))))
