"""The same quantities from plain transformers and PyTorch hooks: no TransformerLens, nothing of the library."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tests.decoders.families import FAMILIES, N_LAYERS, block, neuron_reader, part, plain


@contextmanager
def hooked(
    *,
    inputs: Mapping[nn.Module, Callable[[Tensor], Tensor | None]] | None = None,
    outputs: Mapping[nn.Module, Callable[[Tensor], Tensor | None]] | None = None,
) -> Iterator[None]:
    """Within the block each function sees a module's first input, or its output, and may return another."""

    def before(function: Callable[[Tensor], Tensor | None], args: tuple, kwargs: dict) -> Any:
        if args:
            changed = function(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        changed = function(kwargs["hidden_states"])
        return None if changed is None else (args, {**kwargs, "hidden_states": changed})

    def after(function: Callable[[Tensor], Tensor | None], output: Any) -> Any:
        changed = function(output[0] if isinstance(output, tuple) else output)
        return changed if changed is None or not isinstance(output, tuple) else (changed, *output[1:])

    handles = [
        module.register_forward_pre_hook(lambda _, args, kwargs, f=f: before(f, args, kwargs), with_kwargs=True)
        for module, f in (inputs or {}).items()
    ]
    handles += [module.register_forward_hook(lambda _, __, out, f=f: after(f, out)) for module, f in (outputs or {}).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keeping(into: dict[Any, Tensor], key: Any) -> Callable[[Tensor], None]:
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
    """Each layer's neurons, `[batch, pos, d_mlp]`."""
    model, kept = plain(name), {}
    with hooked(inputs={neuron_reader(name, model, layer): keeping(kept, layer) for layer in range(N_LAYERS)}):
        model(inputs_embeds=embeds)
    return {layer: value.reshape(*embeds.shape[:2], -1) for layer, value in kept.items()}


def written(name: str, embeds: Tensor, layer: int, neuron: int) -> Tensor:
    """What one neuron adds to the residual stream, `[pos, d_model]`, by switching it off.

    The block's output with the neuron minus its output without it, both from the block's own input. The scale of a
    norm behind the MLP is held at its clean value.
    """
    model = plain(name)
    reader, whole = neuron_reader(name, model, layer), block(name, model, layer)
    kept: dict[str, Tensor] = {}
    behind = FAMILIES[name].norm_behind_mlp
    norm = part(whole, behind) if behind else None

    def run(outputs: Mapping[nn.Module, Callable], inputs: Mapping[nn.Module, Callable]) -> None:
        with hooked(inputs=inputs, outputs=outputs):
            model(inputs_embeds=embeds)

    def off(value: Tensor) -> Tensor:
        value = value.clone()
        value[..., neuron] = 0.0
        return value

    run({whole: keeping(kept, "clean")}, {norm: keeping(kept, "norm")} if norm else {})
    outputs: dict[nn.Module, Callable] = {whole: keeping(kept, "without")}
    inputs: dict[nn.Module, Callable] = {reader: off}
    if norm is not None:
        hold, before, normed = held(norm, kept["norm"]), kept["norm"], norm(kept["norm"])
        inputs[norm] = keeping(kept, "norm without")
        outputs[norm] = lambda _: normed + hold(kept["norm without"] - before)
    run(outputs, inputs)
    return (kept["clean"] - kept["without"])[0]


def residuals(name: str, embeds: Tensor) -> dict[int, Tensor]:
    """The residual stream at each depth: 0 enters the first block, `N_LAYERS` enters the final norm."""
    model, kept = plain(name), {}
    with hooked(
        inputs={block(name, model, 0): keeping(kept, 0)},
        outputs={block(name, model, layer): keeping(kept, layer + 1) for layer in range(N_LAYERS)},
    ):
        model(inputs_embeds=embeds)
    return kept


def logits_from(name: str, embeds: Tensor, resid: Tensor) -> Tensor:
    """The model's logits if `resid` were what enters its final norm."""
    model = plain(name)
    with hooked(inputs={part(model, FAMILIES[name].final_norm): lambda _: resid}):
        return model(inputs_embeds=embeds).logits


def direct_logit_changes(name: str, embeds: Tensor, token: int, change: Tensor) -> Tensor:
    """What a change of the last residual stream, `[pos, d_model]`, does to a token's logit at each position.

    To first order, with the final norm's scale held; exact where the model does not squash its logits.
    """
    model, kept = plain(name), {}
    norm = part(model, FAMILIES[name].final_norm)
    leaf: list[Tensor] = []

    def make_leaf(value: Tensor) -> Tensor:
        leaf.append(value.detach().requires_grad_())
        return leaf[0]

    with torch.enable_grad(), hooked(inputs={norm: keeping(kept, "resid")}, outputs={norm: make_leaf}):
        logits = model(inputs_embeds=embeds).logits
        (gradient,) = torch.autograd.grad(logits[0, :, token].sum(), leaf)
    return (gradient[0] * held(norm, kept["resid"])(change[None])[0]).sum(-1)


def inputs_and_gradients(
    modules: Mapping[Any, nn.Module], model: nn.Module, embeds: Tensor, value: Callable[[Tensor], Tensor]
) -> dict[Any, tuple[Tensor, Tensor]]:
    """Each module's input and the gradient of a function of the logits with respect to it."""
    kept: dict[Any, Tensor] = {}
    with torch.enable_grad(), hooked(inputs={module: keeping(kept, key) for key, module in modules.items()}):
        logits = model(inputs_embeds=embeds.clone().requires_grad_()).logits
    gradients = torch.autograd.grad(value(logits), list(kept.values()))
    shape = *embeds.shape[:2], -1
    return {
        key: (kept[key].detach().reshape(shape), gradient.reshape(shape))
        for key, gradient in zip(kept, gradients, strict=True)
    }
