"""Images in graphs of `torch.compile`, where ids have no values while the graph is being made.

An operator of our own writes the vectors when the graph runs, so that neither text nor images break the graph. Graphs
that are made to leave the process (`torch.export`, `torch.jit.trace`) take text only: in them, an image's ids are
outside the vocabulary.
"""

import itertools
import weakref
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


@runtime_checkable
class ImageStore(Protocol):
    """What the operator needs from `VirtualTokens`."""

    def no_words(self, tokens: Tensor) -> Tensor: ...
    def owners_of(self, ids: Tensor) -> list[Any]: ...
    def vectors_of(self, ids: Tensor) -> Tensor: ...


_stores: weakref.WeakValueDictionary[int, ImageStore] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def register(store: ImageStore) -> int:
    """A number by which a graph names a store."""
    number = next(_numbers)
    _stores[number] = store
    return number


def is_graph_of_text() -> bool:
    """Whether a graph is being made that could not find images when it runs."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return True
    return not torch.compiler.is_compiling() and get_proxy_mode() is not None  # torch.fx's make_fx


def has_no_values(tokens: Tensor) -> bool:
    """Whether a tensor has a shape but no values: a fake one, or one on the meta device."""
    return tokens.is_meta or isinstance(tokens, FakeTensor)


_CUDA_GRAPHS = [tag for name, tag in torch.Tag.__members__.items() if name == "cudagraph_unsafe"]
"""The operator looks at ids on the CPU, so a CUDA graph must not contain it; torch before 2.9 has no such tag."""


@torch.library.custom_op("lens_multimodal::write_images", mutates_args=(), tags=_CUDA_GRAPHS)
def write_images(embedded: Tensor, tokens: Tensor, store: int, with_gradient: bool) -> Tensor:
    """Embeddings with the stored vectors at image positions.

    Raises:
        UnknownImageTokens: ids that stand for no image.
        RuntimeError: vectors that require gradient, which a compiled graph cannot give.
    """
    found = _stores[store]
    places = found.no_words(tokens)
    if not bool(places.any()):
        return embedded.clone()
    ids = tokens[places]
    if with_gradient and any(prompt.vectors.requires_grad for prompt in found.owners_of(ids)):
        raise RuntimeError(
            "under torch.compile no gradient reaches an image's vectors: call the model without torch.compile, or make "
            "the prompt with with_gradient=False"
        )
    vectors = found.vectors_of(ids).detach().to(device=embedded.device, dtype=embedded.dtype)
    return embedded.index_put((places.to(embedded.device),), vectors)


@write_images.register_fake
def _(embedded: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(embedded)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _embedded, tokens, ctx.store, _with_gradient = inputs
    ctx.save_for_backward(tokens)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    (tokens,) = ctx.saved_tensors
    places = _stores[ctx.store].no_words(tokens)
    return gradient.masked_fill(places[..., None].to(gradient.device), 0), None, None, None


write_images.register_autograd(_backward, setup_context=_remember)


@write_images.register_vmap
def _(info: Any, in_dims: Any, embedded: Tensor, tokens: Tensor, *rest: Any) -> tuple[Tensor, int]:
    parts = [
        part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
        for part, dim in zip((embedded, tokens), in_dims, strict=False)
    ]
    return write_images(*parts, *rest), 0
