"""The same quantities from plain transformers and PyTorch hooks: no TransformerLens, nothing of the library."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tests.decoders.families import FAMILIES
from tests.decoders.family import N_LAYERS
from tests.decoders.plain_models import block, neuron_reader, part, plain

Edit: TypeAlias = Callable[[Tensor], Tensor | None]
"""Sees a module's input or output, and may return another."""


@contextmanager
def hooked(
    *, inputs: Mapping[nn.Module, Edit] | None = None, outputs: Mapping[nn.Module, Edit] | None = None
) -> Iterator[None]:
    """Within the block each function sees a module's first input, or its first output."""

    def before(edit: Edit, args: tuple, kwargs: dict) -> Any:
        if args:
            changed = edit(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        changed = edit(kwargs["hidden_states"])
        return None if changed is None else (args, {**kwargs, "hidden_states": changed})

    def after(edit: Edit, output: Any) -> Any:
        if not isinstance(output, tuple):
            return edit(output)
        changed = edit(output[0])
        return None if changed is None else (changed, *output[1:])

    handles = [
        *(
            module.register_forward_pre_hook(lambda _, args, kwargs, f=f: before(f, args, kwargs), with_kwargs=True)
            for module, f in (inputs or {}).items()
        ),
        *(module.register_forward_hook(lambda _, __, out, f=f: after(f, out)) for module, f in (outputs or {}).items()),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keeping(into: dict[Any, Tensor], key: Any) -> Edit:
    def keep(value: Tensor) -> None:
        into[key] = value

    return keep


def embedded(name: str, vectors: Tensor, ids: Tensor) -> Tensor:
    """Image vectors, then words: what plain transformers gets as `inputs_embeds`."""
    words = plain(name).get_input_embeddings()(ids).detach()
    return torch.cat([vectors.to(words), words], dim=1)


def held(norm: nn.Module, clean: Tensor) -> Callable[[Tensor], Tensor]:
    """What a norm does to a change of its input while its scale is held, found from its behaviour alone."""
    bias = norm(torch.zeros_like(clean))
    centres = bool(torch.allclose(norm(clean + 1.0), norm(clean), atol=1e-5))
    centred = clean - clean.mean(-1, keepdim=True) if centres else clean
    gain = (norm(clean) - bias) / centred
    return lambda change: gain * (change - change.mean(-1, keepdim=True) if centres else change)


def activations(name: str, embeds: Tensor) -> dict[int, Tensor]:
    """Each layer's neurons, `[pos, d_mlp]`."""
    model, kept = plain(name), {}
    with hooked(inputs={neuron_reader(name, model, layer): keeping(kept, layer) for layer in range(N_LAYERS)}):
        model(inputs_embeds=embeds)
    return {layer: value.reshape(embeds.shape[1], -1) for layer, value in kept.items()}


def written(name: str, embeds: Tensor, layer: int, neurons: Sequence[int]) -> Tensor:
    """What each neuron adds to the residual stream, `[neuron, pos, d_model]`, by switching it off.

    The block's output with the neuron minus its output without it. The scale of a norm after the MLP is held at its
    clean value.
    """
    model, kept = plain(name), {}
    reader, whole = neuron_reader(name, model, layer), block(name, model, layer)
    norm = part(whole, FAMILIES[name].norm_behind_mlp) if FAMILIES[name].norm_behind_mlp else None
    with hooked(
        outputs={whole: keeping(kept, "clean")}, inputs={} if norm is None else {norm: keeping(kept, "to the norm")}
    ):
        model(inputs_embeds=embeds)

    def one_off_in_each_row(value: Tensor) -> Tensor:
        rows = value.reshape(len(neurons), embeds.shape[1], -1).clone()
        rows[torch.arange(len(neurons)), :, torch.tensor(neurons)] = 0.0
        return rows.reshape(value.shape)

    inputs: dict[nn.Module, Edit] = {reader: one_off_in_each_row}
    outputs: dict[nn.Module, Edit] = {whole: keeping(kept, "without")}
    if norm is not None:
        clean = kept["to the norm"]
        through, normed = held(norm, clean), norm(clean)
        inputs[norm] = keeping(kept, "to the norm without")
        outputs[norm] = lambda _: normed + through(kept["to the norm without"] - clean)
    with hooked(inputs=inputs, outputs=outputs):
        model(inputs_embeds=embeds.expand(len(neurons), -1, -1))
    return kept["clean"] - kept["without"]


def residual_stream(name: str, embeds: Tensor) -> dict[int, Tensor]:
    """`[1, pos, d_model]` at each depth: 0 enters the first block, `N_LAYERS` leaves the last."""
    model, kept = plain(name), {}
    with hooked(
        inputs={block(name, model, 0): keeping(kept, 0)},
        outputs={block(name, model, layer): keeping(kept, layer + 1) for layer in range(N_LAYERS)},
    ):
        model(inputs_embeds=embeds)
    return kept


def logits_from(name: str, embeds: Tensor, resid: Tensor) -> Tensor:
    """The model's logits `[pos, d_vocab]` if `resid` were what enters its final norm."""
    model = plain(name)
    with hooked(inputs={part(model, FAMILIES[name].final_norm): lambda _: resid}):
        return model(inputs_embeds=embeds).logits[0]


def final_norm_and_gradient(name: str, embeds: Tensor, token: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The final norm with its scale held, on changes `[..., pos, d_model]`; and what the last position's logit of a
    token makes of the final norm's output there, `[d_model]`: unembedding, multiplier, slope of a cap."""
    model, kept, leaves = plain(name), {}, []
    norm = part(model, FAMILIES[name].final_norm)

    def leaf(value: Tensor) -> Tensor:
        leaves.append(value.detach().requires_grad_())
        return leaves[-1]

    with torch.enable_grad(), hooked(inputs={norm: keeping(kept, "resid")}, outputs={norm: leaf}):
        logit = model(inputs_embeds=embeds).logits[0, -1, token]
        (gradient,) = torch.autograd.grad(logit, leaves[-1])  # NanoChat's embeddings pass the same norm.
    with torch.no_grad():
        return held(norm, kept["resid"][0]), gradient[0, -1]


def inputs_times_gradients(
    modules: Mapping[int, nn.Module], model: nn.Module, embeds: Tensor, value: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """Each module's input, `[pos, width]`, times the gradient of a function of the logits with respect to it."""
    kept: dict[int, Tensor] = {}
    with torch.enable_grad(), hooked(inputs={module: keeping(kept, key) for key, module in modules.items()}):
        logits = model(inputs_embeds=embeds.clone().requires_grad_()).logits
    gradients = torch.autograd.grad(value(logits), list(kept.values()))
    return {
        key: (kept[key].detach() * gradient).reshape(embeds.shape[1], -1)
        for key, gradient in zip(kept, gradients, strict=True)
    }
