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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import product
from typing import Any, Concatenate, ParamSpec, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from typing_extensions import Unpack

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.ablation_effect import values_by_row
from lens_multimodal.analysis.attribution.gradients import each_gradient
from lens_multimodal.analysis.attribution.graph import normal_tensor
from lens_multimodal.analysis.effects.by_row import Replaced, batches
from lens_multimodal.analysis.patching.pairs import Pair
from lens_multimodal.analysis.patching.patch_sweep import PatchSweep
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.targets import CaptionToken, ResolvedTarget, Targets, read_targets
from lens_multimodal.arguments.units import Layers, Neurons, read_layers, read_neurons
from lens_multimodal.hooks.record import record
from lens_multimodal.hooks.replacement import Resample
from lens_multimodal.precision import wide

P = ParamSpec("P")

__all__ = [
    "PatchSweep",
    "act_patch_attn_out",
    "act_patch_heads",
    "act_patch_heads_by_position",
    "act_patch_mlp_out",
    "act_patch_neurons",
    "act_patch_neurons_by_position",
    "act_patch_resid_pre",
    "attribution_patch",
]


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


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a sweep patches, and along which axes its cells lie."""

    name: str
    name_of: Callable[[int], str]
    """Layer → hook name."""
    heads: bool = False
    by_position: bool = True
    """Whether each position is a cell of its own; otherwise all chosen positions are patched together."""


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
    runs = _Runs.of(model, clean_tokens, corrupted_tokens, target, **settings)
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
    runs = _Runs.of(model, clean_tokens, corrupted_tokens, target, **settings)
    pairs = [(layer, int(unit)) for layer, units in read_neurons(model, neurons).items() for unit in units]
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
    runs = _Runs.of(model, clean_tokens, corrupted_tokens, target, **settings)
    return runs.estimates(runs.clean_activations(list(dict.fromkeys(names))))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Runs:
    """Two prompts without their padding, and a target in each of them."""

    model: nn.Module
    pair: Pair
    target: ResolvedTarget
    clean_target: ResolvedTarget
    batch_size: int

    @classmethod
    def of(
        cls,
        model: nn.Module,
        clean_tokens: Tensor,
        corrupted_tokens: Tensor,
        target: Targets,
        *,
        positions: Positions = None,
        source_positions: Positions = None,
        clean_mask: Tensor | None = None,
        corrupted_mask: Tensor | None = None,
        batch_size: int = 32,
    ) -> "_Runs":
        if batch_size < 1:
            raise ArgumentValueError(f"expected a positive number, got {batch_size}", "batch_size")
        pair = Pair.of(
            clean_tokens,
            corrupted_tokens,
            positions=positions,
            source_positions=source_positions,
            clean_mask=clean_mask,
            corrupted_mask=corrupted_mask,
        )
        if clean_tokens.shape != corrupted_tokens.shape and isinstance(target, CaptionToken):
            raise ArgumentValueError(
                "in prompts of unequal length a caption token has two places; name the token itself", "target"
            )
        corrupted_targets = read_targets(model, target, corrupted_tokens)
        if len(corrupted_targets) != 1:
            raise ArgumentValueError(
                f"a sweep has one target, got {len(corrupted_targets)}; run one sweep for each", "target"
            )
        [resolved] = corrupted_targets
        same = clean_tokens.shape == corrupted_tokens.shape
        [clean_target] = [resolved] if same else read_targets(model, target, clean_tokens)
        return cls(
            model=model,
            pair=pair,
            target=pair.without_padding(resolved, pair.corrupted_padding),
            clean_target=pair.without_padding(clean_target, pair.clean_padding),
            batch_size=batch_size,
        )

    def sweep(self, site: Site, axes: Mapping[str, list[Any]], units: Sequence[tuple[int, int | None]]) -> PatchSweep:
        """Patch each unit, given as (layer, head or neuron); None for all of an activation."""
        positions, within = self.pair.positions, list(map(self.pair.within, self.pair.positions))
        groups = [read_positions(group) for group in ([[p] for p in within] if site.by_position else [within])]
        cells = [
            Replaced(name=site.name_of(layer), positions=group, units=None if unit is None else torch.tensor([unit]))
            for (layer, unit), group in product(units, groups)
        ]
        axes = {**axes, **({"pos": positions} if site.by_position else {})}
        shape = [len(labels) for labels in axes.values()]
        clean_activations = self.clean_activations(list(dict.fromkeys(cell.name for cell in cells)))
        estimates = self.estimates(clean_activations)
        patched = self.patched(site.name, cells, clean_activations)
        estimate = torch.stack([_part(estimates[cell.name], cell).sum().to(patched.device) for cell in cells])
        return PatchSweep(
            site=site.name,
            axes=axes,
            patched=patched.reshape(shape),
            estimate=estimate.reshape(shape),
            clean=self._value(self.pair.clean, self.clean_target),
            corrupted=self._value(self.pair.corrupted, self.target),
        )

    def clean_activations(self, names: list[str]) -> dict[str, Float[Tensor, "pos ..."]]:
        """Activations of the clean run, laid out along the corrupted prompt."""
        return {name: self.pair.aligned(value[0]) for name, value in record(self.model, self.pair.clean, names).items()}

    def patched(
        self, site: str, cells: Sequence[Replaced], clean_activations: Mapping[str, Tensor]
    ) -> Float[Tensor, " cell"]:
        """The target's value for each cell, every one a row of a forward pass."""
        to = Resample({name: value[None] for name, value in clean_activations.items()})
        parts = []
        for batch in tqdm(list(batches(len(cells), self.batch_size)), desc=f"activation patching, {site}", delay=2):
            rows = [[cell] for cell in cells[batch]]
            parts.append(
                values_by_row(self.model, self.pair.corrupted, [self.target], rows, batch_size=self.batch_size, to=to)[
                    0
                ]
            )
        return torch.cat(parts)

    def estimates(self, clean_activations: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "pos ..."]]:
        """The estimated effect of every number in the activations, NaN at positions without a partner."""
        found: dict[str, Tensor] = {}

        def keep(_: int, name: str, activation: Tensor, gradient: Tensor) -> None:
            found[name] = wide((clean_activations[name] - activation[0]) * gradient[0])

        each_gradient(
            self.model,
            normal_tensor(self.pair.corrupted),
            [[self.target]],
            {name: name for name in clean_activations},
            keep,
            start=0,
            ends=clean_activations.keys(),
        )
        return {name: found[name] for name in clean_activations}

    def _value(self, tokens: Tensor, target: ResolvedTarget) -> float:
        return float(values_by_row(self.model, tokens, [target], [[]], batch_size=1))


def _part(activation: Tensor, cell: Replaced) -> Tensor:
    """A cell's share of an activation `[pos, ...]`."""
    rows = activation[cell.positions.index(len(activation), device=activation.device)]
    return rows if cell.units is None else rows[:, int(cell.units)]
