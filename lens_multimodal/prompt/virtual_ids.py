"""Token ids that belong to no word, that no other process uses, and that rounding does not turn into one another.

The ids of one process fill a block between two neighbouring float32 numbers, so an id that went through float32 (or a
shorter float) is not the id of any image. All are below 2**53 and survive float64, for example in JSON. Their lower 32
bits are never those of a word, so an id does not become a word in int32 either.
"""

import os
import secrets
import threading

_BLOCK = 2**25
"""The distance of neighbouring float32 numbers from 2**48 to 2**49; above that, it is a multiple of this."""

_FIRST, _LAST = 2**48 // _BLOCK, 2**53 // _BLOCK - 2**12  # room to continue when a block is full
_WORDS = 2**32 // _BLOCK
"""The number of blocks after which the lower 32 bits start again at zero, where words are."""

_lock = threading.Lock()
_next_id = 0
"""Shared by all models of this process: an image of one model is never a word or an image of another."""


def fresh_ids(n: int) -> int:
    """The first of `n` consecutive ids that this process has never used."""
    global _next_id
    with _lock:
        if _next_id % _BLOCK + n > _BLOCK:
            _next_id = _start_of(_next_id // _BLOCK + 1)
        first, _next_id = _next_id, _next_id + n
    return first


def _start_of(block: int) -> int:
    """The first id of a block, or of the next one if its ids could be taken for words."""
    return (block if block % _WORDS else block + 1) * _BLOCK + 1


def _draw_block() -> None:
    """Begin at a random block, so that no other process, a forked one included, uses these ids for another image."""
    global _lock, _next_id
    _lock = threading.Lock()  # at the fork, another thread may have held the old one
    _next_id = _start_of(_FIRST + secrets.randbelow(_LAST - _FIRST))


_draw_block()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_draw_block)
