"""Vectors behind token ids: an image prompt is a run of ids far above `d_vocab`.

Two plain PyTorch hooks on the embedding lookup replace those ids with a harmless one and write the stored vectors into
its output, so everything after the lookup, `hook_embed` included, sees the image. Nothing is kept between calls:
cached decoding, padding and batches need no special case. Text passes through unchanged, even where its ids have no
values yet (`torch.export`, fake tensors, the meta device).

A prompt can be pickled and sent to another process. Its ids are known only where the image was made: elsewhere, or
after `forget`, the model refuses them with `UnknownImageTokens`. If other code removes the hooks, the library refuses
images with `LensDetached`; where none of its code runs, the embedding itself refuses ids outside its vocabulary.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lens_multimodal.prompt import compiled_images, soft_prompt
from lens_multimodal.prompt.soft_prompt import SoftPrompt
from lens_multimodal.prompt.virtual_ids import fresh_ids
from lens_multimodal.transformer.token_ids import LensDetached
from lens_multimodal.transformer.watched_modules import harmless

HARMLESS_ID = 0
"""Looked up in place of a virtual id; its embedding is overwritten."""

_lock = threading.Lock()


class UnknownImageTokens(ValueError):
    """Token ids that are neither words nor stored vectors."""


@runtime_checkable
class Hooks(Protocol):
    """Further hooks of a lens."""

    @property
    def is_attached(self) -> bool: ...
    def remove(self) -> None: ...


class VirtualTokens:
    """The vectors of one model, by token id, and the hooks that put them in place.

    Ids are never reused, so an old id can only be unknown, never another image. A soft prompt is held weakly and freed
    when nothing else refers to it. The latest `keep_latest` are also held here, so that
    `model(lens.prompt(image).tokens)` works although the prompt itself is already gone.

    Raises: RuntimeError if another lens is attached to this embedding.
    """

    def __init__(self, embedding: nn.Module, *, d_vocab: int, d_model: int, keep_latest: int = 64) -> None:
        check_free(embedding)
        self.d_vocab = d_vocab
        self.d_model = d_model
        self.keep_latest = keep_latest
        self._by_first_id: weakref.WeakValueDictionary[int, SoftPrompt] = weakref.WeakValueDictionary()
        self._latest: OrderedDict[int, SoftPrompt] = OrderedDict()
        self._to_write = threading.local()
        self._number = compiled_images.register(self)
        self.embedding = embedding
        _take_off_leftovers(embedding)
        self._handles: tuple[RemovableHandle, ...] = (
            embedding.register_forward_pre_hook(self._hide_virtual_ids),
            embedding.register_forward_hook(self._write_vectors),
        )
        self._hook_ids = [handle.id for handle in self._handles]  # torch.compile cannot ask a handle
        self.on_forward: Hooks | None = None
        """Hooks on the forward pass without which the images of this model are wrong; see `forward_arguments`."""

    def store(
        self, vectors: Float[Tensor, "pos d_model"], *, forward_arguments: Mapping[str, Tensor] | None = None
    ) -> SoftPrompt:
        """Give vectors token ids. Gradients flow to them if they require it.

        Args: forward_arguments: for vectors in an image's place, those of the image's soft prompt.
        Raises:
            ValueError: wrong width, no vector at all, or values that are not finite.
            LensDetached: the lens was detached, or other code removed its hooks.
        """
        self.check_attached()
        if vectors.ndim != 2 or vectors.shape[1] != self.d_model or len(vectors) == 0:
            raise ValueError(
                f"expected vectors of shape [pos, d_model={self.d_model}] with at least one position, got "
                f"{list(vectors.shape)}"
            )
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError(
                "the vectors hold NaN or infinite values: check the picture, the encoder and the projection's "
                "precision (fp16 overflows at 65,504)"
            )
        if vectors.is_inference():
            with torch.inference_mode(False):
                vectors = vectors.clone()
        prompt = SoftPrompt(
            first_id=fresh_ids(len(vectors)), vectors=vectors, forward_arguments=dict(forward_arguments or {})
        )
        with _lock:
            self._by_first_id[prompt.first_id] = prompt
            soft_prompt.alive[prompt.first_id] = prompt
            self._latest[prompt.first_id] = prompt
            while len(self._latest) > self.keep_latest:
                self._latest.popitem(last=False)
        return prompt

    def forget(self, *prompts: SoftPrompt) -> None:
        """Drop these soft prompts now (all, if none is named); their ids become unknown."""
        with _lock:
            for prompt in prompts or list(self._by_first_id.values()):
                self._latest.pop(prompt.first_id, None)
                self._by_first_id.pop(prompt.first_id, None)

    def __len__(self) -> int:
        """How many soft prompts are stored now."""
        return len(self._by_first_id)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored vectors."""
        return sum(p.vectors.nbytes for p in self._living())

    def no_words(self, tokens: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Where token ids are outside the vocabulary."""
        return (tokens >= self.d_vocab) | (tokens < 0)

    def owners_of(self, ids: Int[Tensor, " n"]) -> list[SoftPrompt]:
        """The soft prompts that virtual ids belong to, each once, in the order of their ids.

        Raises:
            UnknownImageTokens: an id that no living soft prompt owns.
        """
        prompts = sorted(self._living(), key=lambda p: p.first_id)
        firsts = torch.tensor([p.first_id for p in prompts], dtype=torch.int64)
        stops = torch.tensor([torch.iinfo(torch.int64).min, *(p.first_id + len(p.vectors) for p in prompts)])
        wanted = ids.cpu().long()
        owner = torch.searchsorted(firsts, wanted.contiguous(), right=True) - 1
        unknown = wanted[wanted >= stops[owner + 1]]
        if len(unknown):
            raise UnknownImageTokens(
                f"token id {int(unknown[0])} is not a word (the vocabulary ends at {self.d_vocab - 1}) and "
                f"stands for no image here: its prompt was forgotten or no longer exists, or it was made by another "
                f"lens or in another process. Keep the prompt for as long as its tokens are used, or make it again "
                f"with lens.prompt(image)"
            )
        return [prompts[int(i)] for i in owner.unique()]

    def vectors_of(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        """The stored vectors behind virtual ids, differentiable with respect to them.

        Raises:
            UnknownImageTokens: an id that no living soft prompt owns.
        """
        known, table = _table_of(self.owners_of(ids))
        return table[torch.searchsorted(known, ids.cpu().long().contiguous()).to(table.device)]

    @property
    def is_attached(self) -> bool:
        """Whether every hook is in place; other code may have removed some."""
        return self._hooks_are_on(self.embedding) and (self.on_forward is None or self.on_forward.is_attached)

    def check_attached(self) -> None:
        """Raise LensDetached unless every hook is in place."""
        if not self._handles:
            raise LensDetached(
                "this lens is detached, or was copied together with its model: attach_vision(...) again to use images"
            )
        if not self.is_attached:
            raise LensDetached(
                "other code removed the hooks of this lens from the model (a loop that clears "
                "_forward_hooks, for example), so images cannot be placed: attach_vision(lens.model, ...) again with "
                "the same parts"
            )

    def remove(self) -> None:
        """Remove every hook and drop every vector."""
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        if self.on_forward is not None:
            self.on_forward.remove()
        self.forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> "VirtualTokens":
        """A copied model refuses virtual ids with a clear error: the images stay with the original."""
        return _detached_copy(self.d_vocab, self.d_model)

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached_copy, (self.d_vocab, self.d_model)

    # --- inside ------------------------------------------------------------------------------------------

    def _living(self) -> list[SoftPrompt]:
        with _lock:
            return list(self._by_first_id.values())

    def _hooks_are_on(self, embedding: nn.Module) -> bool:
        before, after = self._hook_ids
        return before in embedding._forward_pre_hooks and after in embedding._forward_hooks

    @harmless
    def _hide_virtual_ids(self, embedding: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._to_write.found = None
        tokens = args[0] if args else None
        if isinstance(getattr(tokens, "tokens", None), Tensor):
            raise TypeError(f"expected token ids, got {type(tokens).__name__}: give the model prompt.tokens")
        if not isinstance(tokens, Tensor) or tokens.is_floating_point():
            return None
        if compiled_images.is_graph_of_text():
            return None
        if torch.compiler.is_compiling():
            if not self._hooks_are_on(embedding):
                return None
            self._to_write.found = tokens
            return tokens.masked_fill(self.no_words(tokens), HARMLESS_ID), *args[1:]
        values = torch.func.debug_unwrap(tokens, recurse=True)  # under vmap and torch.func.grad, what is inside
        no_words = self.no_words(values)
        if compiled_images.has_no_values(no_words) or not bool(no_words.any()):
            return None
        known, table = _table_of(self.owners_of(values[no_words]))
        self.check_attached()
        rows = torch.searchsorted(known.to(tokens.device), tokens.long().contiguous()).clamp(max=len(known) - 1)
        places = self.no_words(tokens)
        self._to_write.found = places, rows, table
        return tokens.masked_fill(places, HARMLESS_ID), *args[1:]

    @harmless
    def _write_vectors(self, _embedding: nn.Module, _args: tuple[Any, ...], embedded: Tensor) -> Tensor | None:
        found, self._to_write.found = getattr(self._to_write, "found", None), None
        if found is None:
            return None
        if isinstance(found, Tensor):
            return compiled_images.write_images(embedded, found, self._number, torch.is_grad_enabled())
        places, rows, table = found
        vectors = table.to(device=embedded.device, dtype=embedded.dtype)[rows.to(embedded.device)]
        return torch.where(places[..., None].to(embedded.device), vectors, embedded)


def _table_of(prompts: list[SoftPrompt]) -> tuple[Int[Tensor, " known"], Float[Tensor, "known d_model"]]:
    """All ids of these soft prompts in order, on the CPU, and their vectors."""
    place = prompts[0].vectors.device
    return torch.cat([p.ids for p in prompts]), torch.cat([p.vectors.to(place) for p in prompts])


def attached_to(embedding: nn.Module) -> VirtualTokens | None:
    """The virtual tokens on an embedding module, if any: not those of a copied model, or with a hook missing."""
    return next((owner for owner in _owners(embedding) if owner._hooks_are_on(embedding)), None)


def check_free(embedding: nn.Module) -> None:
    """Raise RuntimeError if another lens is attached."""
    if attached_to(embedding) is not None:
        raise RuntimeError("a lens is already attached to this model: use that lens, or call its detach() first")


def _hooks_of(embedding: nn.Module) -> list[dict[int, Any]]:
    return [embedding._forward_pre_hooks, embedding._forward_hooks]


def _owners(embedding: nn.Module) -> list[VirtualTokens]:
    owners = (getattr(hook, "__self__", None) for hooks in _hooks_of(embedding) for hook in hooks.values())
    return [owner for owner in owners if isinstance(owner, VirtualTokens)]


def _take_off_leftovers(embedding: nn.Module) -> None:
    leftovers = _owners(embedding)
    for hooks in _hooks_of(embedding):
        for key in [k for k, hook in hooks.items() if getattr(hook, "__self__", None) in leftovers]:
            del hooks[key]


def _detached_copy(d_vocab: int, d_model: int) -> VirtualTokens:
    copy = VirtualTokens(nn.Identity(), d_vocab=d_vocab, d_model=d_model)
    copy.remove()
    return copy
