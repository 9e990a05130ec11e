"""The encoder's losses: patches of one cut-out agree across scenes; hidden patches are predicted."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

RECTANGLES = 16
"""Most rectangles of a block mask."""


def patch_contrast(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE between single patches of the same cut-out in two scenes, in both directions.

    `first[t, p]` and `second[t, p]` lie on cut-out t in the two scenes and are each other's positive. Their
    negatives are all patches of all other cut-outs in the other view. The other patches of the same cut-out are
    neither.

    Args:
        first, second: unit vectors; shape (cut-out, patch, width).
    """
    cutouts, patches, width = first.shape
    scores = first.reshape(-1, width) @ second.reshape(-1, width).T / temperature
    owner = torch.arange(cutouts, device=first.device).repeat_interleave(patches)
    same = owner[:, None] == owner[None, :]
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, -torch.inf)
    target = torch.arange(len(scores), device=first.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def covered_patches(
    label: Tensor, present: Tensor, *, patch_size: int, count: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Random patches that show each present object.

    Args:
        label: label map (scene, size, size), k + 1 where object k is visible.
        present: bool (scene, 3).
    Returns:
        Patch numbers (object, count), drawn with replacement by covered pixels among the patches covered at
        least half, or among all if no patch is; and whether the object is visible at all (object,).
    """
    share = patch_shares(label, slots=present.shape[1], patch_size=patch_size)[present]
    half = share >= 0.5
    weight = torch.where(half.any(dim=1, keepdim=True), share * half, share)
    seen = weight.sum(dim=1) > 0
    weight = torch.where(seen[:, None], weight, 1.0)
    return torch.multinomial(weight, count, replacement=True, generator=generator), seen


def patch_shares(label: Tensor, *, slots: int, patch_size: int) -> Tensor:
    """Share of each patch's pixels that each object owns; shape (scene, slot, patch)."""
    one_hot = (label[:, None] == torch.arange(1, slots + 1, device=label.device)[:, None, None]).float()
    return F.avg_pool2d(one_hot, patch_size).flatten(2)


def block_mask(count: int, *, side: int, share: float, generator: Generator) -> Tensor:
    """Blockwise masks as in BEiT, section 2.3: bool (count, side * side), at least `share` of each hidden.

    Rectangles of random area and shape are added until the share is reached. Random patches of the last one are
    left out, so that every mask hides the same number of patches.
    """
    device = generator.device
    axis = torch.arange(side, device=device)
    draw = torch.rand(4, count, RECTANGLES, 1, generator=generator, device=device)
    area = 3 + draw[0] * (0.4 * side * side - 3)
    shape = torch.exp((draw[1] - 0.5) * 2.4)
    height = (area * shape).sqrt().round().clamp(1, side)
    width = (area / shape).sqrt().round().clamp(1, side)
    top = (draw[2] * (side - height + 1)).floor()
    left = (draw[3] * (side - width + 1)).floor()
    rows = (axis >= top) & (axis < top + height)
    columns = (axis >= left) & (axis < left + width)
    hides = (rows[..., :, None] & columns[..., None, :]).flatten(2)
    first = torch.where(hides.any(dim=1), hides.int().argmax(dim=1), RECTANGLES)
    order = first + torch.rand(first.shape, generator=generator, device=device)
    return order.argsort(dim=1).argsort(dim=1) < round(share * side * side)


def visual_tokens(image: Tensor, codebook: Tensor, *, patch_size: int) -> Tensor:
    """The nearest code of each patch; int64 (scene, patch)."""
    patches = _in_patches(image, patch_size)
    nearness = patches @ codebook.T - codebook.square().sum(dim=1) / 2
    return nearness.argmax(dim=-1)


def learn_codebook(image: Tensor, *, codes: int, patch_size: int, generator: Generator, rounds: int = 12) -> Tensor:
    """k-means over the patches of these scenes; at most `codes` rows (code, 3 * patch_size**2)."""
    patches = _in_patches(image, patch_size).flatten(0, 1)
    start = torch.randperm(len(patches), generator=generator, device=patches.device)[:codes]
    codebook = patches[start].clone()
    for _ in range(rounds):
        nearest = (patches @ codebook.T - codebook.square().sum(dim=1) / 2).argmax(dim=1)
        sums = torch.zeros_like(codebook).index_add_(0, nearest, patches)
        counts = torch.bincount(nearest, minlength=len(codebook))
        codebook = torch.where((counts > 0)[:, None], sums / counts.clamp(min=1)[:, None], codebook)
    return codebook


def _in_patches(image: Tensor, patch_size: int) -> Tensor:
    """Pixels of each patch: (scene, patch, 3 * patch_size**2)."""
    return rearrange(image, "n c (h i) (w j) -> n (h w) (c i j)", i=patch_size, j=patch_size)
