"""Vectors behind token ids: an image prompt is a run of ids at or above `d_vocab`.

Two plain PyTorch hooks on the embedding lookup replace those ids by a harmless one and write the stored vectors into
its output, so everything after the lookup, `hook_embed` included, sees the image. Nothing is kept between calls:
cached decoding, padding and batches need no special case.

A prompt can be pickled and sent to another process. Its ids are known only where the image was made: elsewhere, or
after `forget`, the model refuses them with `UnknownImageTokens`.
"""

import os
import secrets
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

HARMLESS_ID = 0
"""Looked up in place of a virtual id; its embedding is overwritten."""

_BLOCK = 2**24
"""Larger than every vocabulary, and more ids than one process ever uses."""

_lock = threading.Lock()
_next_id = 0
"""Shared by all models of this process: an image of one model is never a word or an image of another."""


def _draw_block() -> None:
    """Start the ids of this process at a random block, so that no other process uses them for another image.

    Below 2**53, so that an id survives as a float64, for example in JSON.
    """
    global _next_id
    _next_id = _BLOCK * (1 + secrets.randbelow(2**28))


_draw_block()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_draw_block)


class UnknownImageTokens(ValueError):
    """Token ids that are neither words nor stored vectors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftPrompt:
    """A run of stored vectors and the token ids that stand for them.

    The ids work for as long as this object lives, or until `VirtualTokens.forget`. Unpickled where it still lives, it
    is the same object, and so is a copy; unpickled elsewhere, its ids stay unknown.
    """

    first_id: int
    vectors: Float[Tensor, "pos d_model"]

    @property
    def ids(self) -> Int[Tensor, " pos"]:
        """The token ids, on the CPU."""
        return torch.arange(self.first_id, self.first_id + len(self.vectors))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.first_id, self.vectors)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SoftPrompt":
        return self


_alive: weakref.WeakValueDictionary[int, SoftPrompt] = weakref.WeakValueDictionary()
"""Every soft prompt stored in this process, by its first id."""


def _unpickled(first_id: int, vectors: Tensor) -> SoftPrompt:
    alive = _alive.get(first_id)
    return SoftPrompt(first_id=first_id, vectors=vectors) if alive is None else alive


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
        self._found = threading.local()
        _take_off_copies(embedding)
        self._handles: tuple[RemovableHandle, ...] = (
            embedding.register_forward_pre_hook(self._hide_virtual_ids),
            embedding.register_forward_hook(self._write_vectors),
        )

    def store(self, vectors: Float[Tensor, "pos d_model"]) -> SoftPrompt:
        """Give vectors token ids. Gradients flow to them if they require it.

        Raises:
            ValueError: wrong width, no vector at all, or values that are not finite.
            RuntimeError: the lens was detached.
        """
        if not self._handles:
            raise RuntimeError(
                "this lens is detached, or was copied together with its model: attach_vision(...) again to use images"
            )
        if vectors.ndim != 2 or vectors.shape[1] != self.d_model or len(vectors) == 0:
            raise ValueError(
                f"expected vectors of shape [pos, d_model={self.d_model}] with at least one position, got "
                f"{list(vectors.shape)}"
            )
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError(
                "the vectors hold NaN or infinite values: look at the picture, the encoder and the projection's "
                "precision (fp16 overflows at 65,504)"
            )
        if vectors.is_inference():
            with torch.inference_mode(False):
                vectors = vectors.clone()
        with _lock:
            prompt = SoftPrompt(first_id=_fresh_ids(len(vectors), d_vocab=self.d_vocab), vectors=vectors)
            self._by_first_id[prompt.first_id] = prompt
            _alive[prompt.first_id] = prompt
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

    def is_virtual(self, tokens: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Where token ids stand for stored vectors rather than words."""
        return tokens >= self.d_vocab

    def vectors_of(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        """The stored vectors behind virtual ids, differentiable with respect to them.

        Raises:
            UnknownImageTokens: an id that no living soft prompt owns.
        """
        prompts = sorted(self._living(), key=lambda p: p.first_id)
        firsts = np.array([p.first_id for p in prompts], dtype=np.int64)
        lengths = np.array([len(p.vectors) for p in prompts], dtype=np.int64)
        wanted = ids.cpu().numpy().astype(np.int64)
        owner = np.searchsorted(firsts, wanted, side="right") - 1
        known = (owner >= 0) & (len(prompts) > 0)
        if len(prompts):
            known &= wanted < firsts[owner] + lengths[owner]
        if not known.all():
            raise UnknownImageTokens(
                f"token id {int(wanted[~known][0])} is not a word (the vocabulary ends at {self.d_vocab - 1}) and "
                f"stands for no image here: its prompt was forgotten or no longer exists, or it was made by another "
                f"lens or in another process. Keep the prompt for as long as its tokens are used, or make it anew with "
                f"lens.prompt(image)"
            )
        needed, position = np.unique(owner, return_inverse=True)
        starts = np.concatenate([[0], np.cumsum(lengths[needed])[:-1]])
        rows = starts[position] + wanted - firsts[owner]
        target = prompts[needed[0]].vectors.device
        table = torch.cat([prompts[i].vectors.to(target) for i in needed])
        return table[torch.from_numpy(rows).to(target)]

    def remove(self) -> None:
        """Remove both hooks and drop every vector."""
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        self.forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> "VirtualTokens":
        """A copied model refuses virtual ids with a clear error: the images stay with the original."""
        return _detached_copy(self.d_vocab, self.d_model)

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached_copy, (self.d_vocab, self.d_model)

    def _living(self) -> list[SoftPrompt]:
        with _lock:
            return list(self._by_first_id.values())

    def _hide_virtual_ids(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._found.vectors = None
        tokens = args[0] if args else None
        if not isinstance(tokens, Tensor) or tokens.is_floating_point():
            return None
        no_word = self.is_virtual(tokens) | (tokens < 0)
        if not bool(no_word.any()):
            return None
        self._found.vectors = no_word, self.vectors_of(tokens[no_word])
        return tokens.masked_fill(no_word, HARMLESS_ID), *args[1:]

    def _write_vectors(self, _module: nn.Module, _args: tuple[Any, ...], embedded: Tensor) -> Tensor | None:
        found, self._found.vectors = getattr(self._found, "vectors", None), None
        if found is None:
            return None
        places, vectors = found
        vectors = vectors.to(device=embedded.device, dtype=embedded.dtype)
        return embedded.index_put((places.to(embedded.device),), vectors)


def attached_to(embedding: nn.Module) -> VirtualTokens | None:
    """The virtual tokens that are in place on an embedding module, if any; those of a copied model do not count."""
    return next((owner for owner in _owners(embedding) if owner._handles), None)


def check_free(embedding: nn.Module) -> None:
    """Raise RuntimeError if another lens is attached."""
    if attached_to(embedding) is not None:
        raise RuntimeError("a lens is already attached to this model: use that lens, or call its detach() first")


def _fresh_ids(n: int, *, d_vocab: int) -> int:
    global _next_id
    first = max(_next_id, d_vocab)
    _next_id = first + n
    return first


def _owners(embedding: nn.Module) -> list[VirtualTokens]:
    owners = (getattr(hook, "__self__", None) for hook in embedding._forward_pre_hooks.values())
    return [owner for owner in owners if isinstance(owner, VirtualTokens)]


def _take_off_copies(embedding: nn.Module) -> None:
    copies = _owners(embedding)
    for hooks in (embedding._forward_pre_hooks, embedding._forward_hooks):
        for key in [k for k, hook in hooks.items() if getattr(hook, "__self__", None) in copies]:
            del hooks[key]


def _detached_copy(d_vocab: int, d_model: int) -> VirtualTokens:
    copy = VirtualTokens(nn.Identity(), d_vocab=d_vocab, d_model=d_model)
    copy.remove()
    return copy
