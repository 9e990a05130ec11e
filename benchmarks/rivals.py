"""The same attribution as other tools compute it: on the same weights, from the same embedded prompt.

Each takes the embedded prompt `[1, pos, d_model]` and a token, and returns activation times gradient of every MLP
neuron `[layer, pos, d_mlp]` for that token's logit at the last position.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lens_multimodal import VisionLens, transformer


def by_hand(
    plain: Any, embedded: Tensor, tokens: list[int], *, keep: Callable[[Tensor], Tensor] = lambda scores: scores
) -> Tensor:
    """Bare `transformers`: PyTorch hooks on each `fc_out`, one forward, one `autograd.grad` for each token.

    Args: keep: from each token's scores, `[layer, pos, d_mlp]`, to what is kept of them.
    """
    logits, kept = _forward(plain, embedded)
    last = logits[0, -1].float()
    found = []
    for index, token in enumerate(tokens):
        gradients = torch.autograd.grad(last[token], kept, retain_graph=index < len(tokens) - 1)
        pairs = zip(kept, gradients, strict=True)
        found.append(keep(torch.stack([(a.detach().float() * g.float())[0] for a, g in pairs])))
    return torch.stack(found)


def by_hand_in_batch(plain: Any, embedded: Tensor, tokens: list[int], image_pos: Tensor, *, top: int) -> Tensor:
    """The same for `[batch, pos, d_model]` and a token for each row: one forward pass, one backward pass.

    Returns: each row's best attributions at the image positions, `[batch, top]`, largest first.
    """
    logits, kept = _forward(plain, embedded)
    own = torch.tensor(tokens, device=logits.device)[:, None]
    gradients = torch.autograd.grad(logits[:, -1].float().gather(1, own).sum(), kept)
    pairs = zip(kept, gradients, strict=True)
    scores = torch.stack([(a.detach().float() * g.float())[:, image_pos].amax(dim=1) for a, g in pairs], dim=1)
    return scores.flatten(1).topk(top).values


@torch.no_grad()
def soft_prompts(lens: VisionLens, pictures: Sequence[Image.Image]) -> Tensor:
    """timm and a linear map: from pictures to their image vectors, `[batch, image_pos, d_model]`."""
    module: Any = lens.vision.module
    linear: Any = lens.projection.linear
    pixels = lens.vision.preprocessing(list(pictures)).to(linear.weight)
    vectors: Tensor = linear(module.forward_features(pixels)[:, 1:])
    return vectors


def transformer_lens_hooks(bridge: Any, embedded: Tensor, token: int) -> Tensor:
    """Bare TransformerLens: forward hooks keep activations, backward hooks keep gradients, one `backward()`."""
    layers = range(transformer.shape(bridge).n_layers)
    acts: dict[str, Tensor] = {}
    grads: dict[str, Tensor] = {}

    def keep_act(value: Tensor, hook: Any) -> None:
        acts[hook.name] = value.detach()

    def keep_grad(value: Tensor, hook: Any) -> None:
        grads[hook.name] = value.detach()

    names = [transformer.mlp_post(layer) for layer in layers]
    with bridge.hooks(fwd_hooks=[(n, keep_act) for n in names], bwd_hooks=[(n, keep_grad) for n in names]):
        logits = bridge(embedded.clone().requires_grad_(), return_type="logits")
        logits[0, -1].float()[token].backward()
    pairs = zip((acts[name] for name in acts), (grads[name] for name in acts), strict=True)
    return torch.stack([(a.float() * g.float())[0] for a, g in pairs])


def captum_layers(plain: Any, embedded: Tensor, token: int, *, one_by_one: bool) -> Tensor:
    """captum's `LayerGradientXActivation`, a layer at a time or all layers as one list."""
    from captum.attr import LayerGradientXActivation

    def last_logits(vectors: Tensor) -> Tensor:
        return plain(inputs_embeds=vectors, use_cache=False).logits[:, -1].float()

    layers: list[nn.Module] = [block.mlp.fc_out for block in plain.transformer.h]
    vectors = embedded.clone().requires_grad_()
    settings: Any = {"target": token, "attribute_to_layer_input": True}
    if one_by_one:
        parts = [LayerGradientXActivation(last_logits, layer).attribute(vectors, **settings) for layer in layers]
    else:
        parts = LayerGradientXActivation(last_logits, layers).attribute(vectors, **settings)
    return torch.stack([(part[0] if isinstance(part, tuple) else part).detach().float()[0] for part in parts])


def nnsight_trace(plain: Any, embedded: Tensor, token: int) -> Tensor:
    """nnsight: a forward trace that keeps each `fc_out`'s input, a backward trace that keeps its gradient."""
    from nnsight import NNsight

    model = NNsight(plain)
    blocks = list(range(len(plain.transformer.h)))
    vectors = embedded.clone().requires_grad_()
    with model.trace(inputs_embeds=vectors, use_cache=False):
        acts = [model.transformer.h[i].mlp.fc_out.input for i in blocks]
        logit = model.lm_head.output[0, -1].float()[token]
        with logit.backward():
            grads = [acts[i].grad for i in reversed(blocks)][::-1]
            found = torch.stack([(a.detach().float() * g.float())[0] for a, g in zip(acts, grads)]).save()  # noqa: B905
    return found


def layer_loop(plain: Any, embedded: Tensor, token: int) -> Tensor:
    """The loop of published code: a separate forward and backward pass for every layer."""
    found = []
    for block in plain.transformer.h:
        kept: list[Tensor] = []
        handle = block.mlp.fc_out.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
        logits = plain(inputs_embeds=embedded.clone().requires_grad_(), use_cache=False).logits
        handle.remove()
        [gradient] = torch.autograd.grad(logits[0, -1].float()[token], kept)
        found.append((kept[0].detach().float() * gradient.float())[0])
    return torch.stack(found)


def _forward(plain: Any, embedded: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the input of each `fc_out` with its gradient graph."""
    kept: list[Tensor] = []
    handles = [
        block.mlp.fc_out.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        for block in plain.transformer.h
    ]
    try:
        logits = plain(inputs_embeds=embedded.clone().requires_grad_(), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits, kept
