"""Which pictures show the same drawing: compared by outline and shading, colour and mirroring aside."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

GRID = 16
ACROSS_HANDS, SAME_HAND = (0.985, 0.93), (0.975, 0.88)
"""Cosine similarity from which two outlines, and two shadings, count as equal; chosen by looking at pairs.

Artists vary their own drawings (recoloured, a cloud added, with and without colour), so the threshold is lower for
drawings by the same artist.
"""


def groups(
    outline: Float[np.ndarray, "n cells"],
    shading: Float[np.ndarray, "n cells1"],
    *,
    hands: Sequence[str],
    families: Sequence[str],
) -> list[int]:
    """Connected components of "is nearly the same drawing", as the smallest index of each component.

    Two pictures are joined if their fingerprints agree, directly or mirrored, or if they share a non-empty family name.
    `hands` names the artist of each picture.
    Cost: n^2 * 1024 multiplications, in blocks.
    """
    parent = list(range(len(families)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        a, b = sorted((root(i), root(j)))
        parent[b] = a

    first: dict[str, int] = {}
    for index, family in enumerate(families):
        if family:
            join(index, first.setdefault(family, index))
    for i, j in pairs(outline, shading, hands):
        join(i, j)
    return [root(i) for i in range(len(parent))]


def pairs(
    outline: Float[np.ndarray, "n cells"],
    shading: Float[np.ndarray, "n cells1"],
    hands: Sequence[str],
    block: int = 1024,
) -> list[tuple[int, int]]:
    """Index pairs (i < j) of near-duplicates."""
    hand = np.unique(np.asarray(hands), return_inverse=True)[1]
    mirrored_outline = _mirror(outline)
    mirrored_shading = np.concatenate([_mirror(shading[:, :-1]), shading[:, -1:]], 1)
    found: list[tuple[int, int]] = []
    for start in range(0, len(outline), block):
        rows = slice(start, start + block)
        for other_outline, other_shading in ((outline, shading), (mirrored_outline, mirrored_shading)):
            outlines, shadings = (
                outline[rows] @ other_outline[start:].T,
                shading[rows] @ other_shading[start:].T,
            )
            alike = (outlines > ACROSS_HANDS[0]) & (shadings > ACROSS_HANDS[1])
            kin = hand[rows, None] == hand[None, start:]
            alike |= kin & (outlines > SAME_HAND[0]) & (shadings > SAME_HAND[1])
            i, j = np.nonzero(alike)
            found += [(start + int(a), start + int(b)) for a, b in zip(i, j, strict=True) if a < b]
    return sorted(set(found))


def fingerprints(
    pixels: UInt8[np.ndarray, "n size size 4"],
) -> tuple[Float[np.ndarray, "n cells"], Float[np.ndarray, "n cells1"]]:
    """Outline (alpha) and shading (luminance about its mean inside the outline) on a 16 x 16 grid, unit length.

    The last entry of a shading is a small constant, so that two flat pictures agree and a flat and a shaded one do not.
    """
    n, size = pixels.shape[:2]
    cell = size // GRID
    tiles = pixels[:, : cell * GRID, : cell * GRID].astype(np.float32).reshape(n, GRID, cell, GRID, cell, 4)
    alpha = tiles[..., 3] / 255
    luminance = (tiles[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) / 255 * alpha).mean((2, 4)).reshape(n, -1)
    outline = alpha.mean((2, 4)).reshape(n, -1)
    mean = luminance.sum(1, keepdims=True) / outline.sum(1, keepdims=True).clip(1e-6)
    shading = np.concatenate([luminance - mean * outline, np.full((n, 1), 0.3, np.float32)], 1)
    return _unit(outline), _unit(shading)


def _mirror(grid: Float[np.ndarray, "n cells"]) -> Float[np.ndarray, "n cells"]:
    return np.ascontiguousarray(grid.reshape(-1, GRID, GRID)[:, :, ::-1]).reshape(len(grid), -1)


def _unit(rows: Float[np.ndarray, "n cells"]) -> Float[np.ndarray, "n cells"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6)
