"""The same prompt with other vectors at some of its image positions."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePrompt, ImageSpan
from lens_multimodal.prompt.virtual_tokens import VirtualTokens


def with_other_vectors(
    prompt: ImagePrompt, at: Int[Tensor, " n"], vector: Float[Tensor, " d_model"], *, virtual_tokens: VirtualTokens
) -> ImagePrompt:
    """A prompt of one row in which a vector stands at some image positions, and each image keeps its layout.

    Raises: ValueError for several rows, a position that shows no image, or a vector of another width.
    """
    prompt.check_one_row()
    wanted = set(at.tolist())
    if words := sorted(wanted - {pos for span in prompt.spans[0] for pos in span.positions}):
        raise ValueError(f"position {words[0]} of this prompt shows no image; its image positions are prompt.image_pos")
    tokens, spans = prompt.tokens.clone(), []
    for span in prompt.spans[0]:
        chosen = [index for index, pos in enumerate(span.positions) if pos in wanted]
        changed = _changed(span, chosen, vector, virtual_tokens) if chosen else span
        tokens[0, list(span.positions)] = changed.image.soft_prompt.ids.to(tokens.device)
        spans.append(changed)
    return replace(prompt, tokens=tokens, spans=(tuple(spans),))


@torch.no_grad()
def _changed(span: ImageSpan, chosen: list[int], vector: Tensor, virtual_tokens: VirtualTokens) -> ImageSpan:
    image: EmbeddedImage = span.image
    vectors = image.soft_prompt.vectors.detach().clone()
    if vector.shape != vectors.shape[1:]:
        raise ValueError(f"expected a vector of width d_model={vectors.shape[1]}, got {list(vector.shape)}")
    vectors[chosen] = vector.to(vectors)
    stored = virtual_tokens.store(vectors, forward_arguments=image.soft_prompt.forward_arguments)
    return replace(span, image=replace(image, soft_prompt=stored))
