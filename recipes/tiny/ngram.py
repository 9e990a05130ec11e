"""An interpolated Kneser-Ney n-gram model over token ids: the baseline that a language model must beat.

Chen & Goodman 1999, equation 18 with one discount per order (D = n1 / (n1 + 2 n2)). Lower orders count the different
contexts that a token follows, not how often it occurs; the lowest is mixed with the uniform distribution. The result is
a true probability: it sums to one over the vocabulary after every context.
"""

import numpy as np


class NGram:
    """Counts of every order, as sorted integer keys: the tokens of an n-gram are the digits of its key."""

    def __init__(self, tokens: np.ndarray, *, order: int, vocab_size: int) -> None:
        if vocab_size**order >= 2**64:
            raise ValueError(f"{order}-grams over {vocab_size} tokens do not fit 64-bit keys: lower the order")
        self.order, self.vocab_size = order, vocab_size
        keys, counts = np.unique(_keys(tokens.astype(np.uint64), order, vocab_size), return_counts=True)
        levels = []
        for length in range(order, 0, -1):
            levels.append(_Level(keys, counts, vocab_size))
            if length > 1:
                shorter = keys % np.uint64(vocab_size ** (length - 1))
                keys, counts = np.unique(shorter, return_counts=True)
        self._levels = levels[::-1]

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """The probability of each token but the first `order - 1`, given the `order - 1` before it."""
        tokens = tokens.astype(np.uint64)
        probability = np.full(len(tokens) - self.order + 1, 1 / self.vocab_size)
        for length, level in enumerate(self._levels, start=1):
            windows = _keys(tokens[self.order - length :], length, self.vocab_size)
            probability = level.interpolate(windows, probability)
        return probability


class _Level:
    """All n-grams of one length."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, vocab_size: int) -> None:
        self.base = np.uint64(vocab_size)
        self.keys, self.counts = keys, counts
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once and twice else 0.5
        self.contexts, starts = np.unique(keys // self.base, return_index=True)
        self.totals = np.add.reduceat(counts, starts)
        self.followers = np.diff(np.append(starts, len(keys)))

    def interpolate(self, windows: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Discounted counts plus the freed mass times the shorter context's probability."""
        count = _lookup(self.keys, self.counts, windows)
        contexts = windows // self.base
        total = _lookup(self.contexts, self.totals, contexts)
        followers = _lookup(self.contexts, self.followers, contexts)
        seen = np.maximum(total, 1)
        mixed = np.maximum(count - self.discount, 0) / seen + self.discount * followers / seen * shorter
        return np.where(total > 0, mixed, shorter)


def _keys(tokens: np.ndarray, length: int, vocab_size: int) -> np.ndarray:
    end = len(tokens) - length + 1
    keys = np.zeros(end, dtype=np.uint64)
    for place in range(length):
        keys = keys * np.uint64(vocab_size) + tokens[place : place + end]
    return keys


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is absent."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
