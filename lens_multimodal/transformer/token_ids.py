"""Ids of images never reach an embedding that does not know them."""

from jaxtyping import Int
from torch import Tensor, nn

from lens_multimodal.transformer.model_class import embedding_module
from lens_multimodal.transformer.weights import w_e


class LensDetached(RuntimeError):
    """An image was used on a model whose lens had been removed, by `detach` or by other code."""


def check_token_ids(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> None:
    """Check that something places the images in these tokens; on a GPU, their ids would end the process's CUDA context.

    Raises: LensDetached for ids outside the vocabulary of an embedding without hooks.
    """
    embedding = embedding_module(model)
    if embedding._forward_pre_hooks and embedding._forward_hooks:
        return
    d_vocab = w_e(model).shape[0]
    unknown = tokens[(tokens < 0) | (tokens >= d_vocab)]
    if len(unknown):
        raise LensDetached(
            f"token id {int(unknown[0])} is not a word (the vocabulary ends at {d_vocab - 1}), and no lens is on this "
            f"model to place an image there: it was detached, or other code removed its hooks or replaced the "
            f"embedding. Attach one: attach_vision(lens.model, ...) with the same parts"
        )
