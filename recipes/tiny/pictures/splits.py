"""What no training stage may see: one whole drawing style, and a share of every noun's other drawings.

Decided for groups of near-duplicates, so that no near-duplicate of a held-out drawing is in training, and by hashes of
names, so that the decision stays the same when labels are reviewed or pictures are added.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

TRAIN, STYLE, DRAWING = "train", "held_out_style", "held_out_drawing"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the split needs to know about a picture."""

    group: str
    """Name of its group of near-duplicates."""
    style: str
    noun: str
    """Label by name, before any review; empty if none."""
    permissive: bool


def assign(entries: Sequence[Entry], *, held_out_style: str, share: float, at_least: int, seed: int) -> list[str]:
    """A split for every picture: `train`, `held_out_style` or `held_out_drawing`.

    Of each noun's groups outside the held-out style, `share` of them (at least `at_least`, at most half) is held out,
    chosen among those with a permissive picture, since only these can be shipped as evidence. Groups that contain a
    picture of the held-out style are held out too.
    """
    of_style = {e.group for e in entries if e.style == held_out_style}
    groups: dict[str, set[str]] = defaultdict(set)
    shippable = {e.group for e in entries if e.permissive}
    for entry in entries:
        if entry.noun and entry.style != held_out_style:
            groups[entry.noun].add(entry.group)
    held = set(of_style)
    for noun in sorted(groups):
        wanted = min(max(at_least, math.ceil(share * len(groups[noun]))), len(groups[noun]) // 2)
        for group in sorted(groups[noun] & shippable, key=lambda g: _draw(seed, g)):
            if len(groups[noun] & held) >= wanted:
                break
            held.add(group)
    return [STYLE if e.style == held_out_style else DRAWING if e.group in held else TRAIN for e in entries]


def _draw(seed: int, group: str) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
