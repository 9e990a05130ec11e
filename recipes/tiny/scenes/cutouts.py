"""Cut-outs prepared for composing: cropped to their alpha, premultiplied, in a pyramid of sizes."""

import csv
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SPLITS = ("train", "held_out_style", "held_out_drawing")


@dataclass(frozen=True, kw_only=True)
class CutOuts:
    """Pictures of chosen splits, addressed by their row in `pictures.csv`."""

    ids: Tensor
    """Rows of `pictures.csv` that are loaded, ascending; shape (n,)."""
    levels: tuple[Tensor, ...]
    """uint8 premultiplied RGBA, each level half the side of the one before; shapes (n, 4, side, side)."""

    @property
    def side(self) -> int:
        return self.levels[0].shape[-1]

    def rows(self, ids: Tensor) -> Tensor:
        """Where the pictures of these ids lie in `levels`.

        Raises: ValueError if one of them is not loaded, as a held-out picture in training would be.
        """
        found = torch.searchsorted(self.ids, ids.contiguous()).clamp_(max=len(self.ids) - 1)
        missing = ids[self.ids[found] != ids]
        if missing.numel():
            raise ValueError(
                f"pictures {missing[:5].tolist()} are not among the {len(self.ids)} loaded cut-outs. "
                "Load their split, or draw from `cutouts.ids`."
            )
        return found

    def to(self, device: torch.device | str) -> "CutOuts":
        return CutOuts(ids=self.ids.to(device), levels=tuple(level.to(device) for level in self.levels))


def load(pictures: Path, *, splits: Collection[str], side: int, ids: Sequence[int] | None = None) -> CutOuts:
    """The cut-outs of these splits, read from pixels and the columns `id`, `sha256`, `split` alone.

    Args:
        pictures: folder with `pixels.npy` and `pictures.csv`.
        side: side of the largest level in pixels, at most the stored side.
        ids: keep only these rows.
    Raises: ValueError if a split is unknown, if nothing is left, if pixels do not match their hash, or if
        a picture's pixels also occur in a split that was not requested.
    """
    unknown = set(splits) - set(SPLITS)
    if unknown:
        raise ValueError(f"splits {sorted(unknown)} do not exist; there are {', '.join(SPLITS)}")
    with (pictures / "pictures.csv").open(newline="", encoding="utf-8") as file:
        listed = [(int(row["id"]), row["sha256"], row["split"]) for row in csv.DictReader(file)]
    wanted = None if ids is None else set(ids)
    chosen = [(id_, sha) for id_, sha, split in listed if split in splits and (wanted is None or id_ in wanted)]
    if not chosen:
        raise ValueError(f"{pictures} has no picture in the splits {sorted(splits)}")
    _refuse_leaks({sha for _, sha in chosen}, {sha: split for _, sha, split in listed if split not in splits})
    pixels = np.load(pictures / "pixels.npy", mmap_mode="r")
    parts = [_read(pixels, chosen[start : start + 512], side) for start in range(0, len(chosen), 512)]
    return CutOuts(ids=torch.tensor([id_ for id_, _ in chosen]), levels=_pyramid(torch.cat(parts)))


def of_pixels(rgba: Tensor, *, side: int) -> CutOuts:
    """Cut-outs from straight-alpha pictures in memory, uint8 (n, size, size, 4); their ids are 0..n-1."""
    return CutOuts(ids=torch.arange(len(rgba)), levels=_pyramid(_crop(rgba, side)))


def _refuse_leaks(chosen: set[str], others: dict[str, str]) -> None:
    leaked = sorted(chosen & others.keys())
    if leaked:
        raise ValueError(
            f"{len(leaked)} pictures also occur in the split {others[leaked[0]]!r}, the first with sha256 "
            f"{leaked[0]}: a held-out drawing would be trained on. Correct `pictures.csv`."
        )


def _read(pixels: np.ndarray, chosen: list[tuple[int, str]], side: int) -> Tensor:
    rgba = np.stack([pixels[id_] for id_, _ in chosen])
    for picture, (id_, sha) in zip(rgba, chosen, strict=True):
        if hashlib.sha256(picture.tobytes()).hexdigest() != sha:
            raise ValueError(f"picture {id_} does not match its sha256 in pictures.csv: make the pictures again")
    return _crop(torch.from_numpy(rgba), side)


def _crop(rgba: Tensor, side: int) -> Tensor:
    """Premultiplied RGBA (n, 4, side, side): the square around each picture's opaque part fills the frame."""
    size = rgba.shape[1]
    if not 0 < side <= size:
        raise ValueError(f"side {side} is not between 1 and the pictures' own side {size}")
    straight = rgba.permute(0, 3, 1, 2).float()
    premultiplied = torch.cat([straight[:, :3] * (straight[:, 3:] / 255), straight[:, 3:]], dim=1)
    opaque = straight[:, 3] > 127
    centre_x, half_x = _extent(opaque.any(dim=1))
    centre_y, half_y = _extent(opaque.any(dim=2))
    half = torch.maximum(half_x, half_y)
    zero = torch.zeros_like(half)
    theta = torch.stack([torch.stack([half, zero, centre_x], -1), torch.stack([zero, half, centre_y], -1)], 1)
    grid = F.affine_grid(theta, [len(rgba), 4, size, size], align_corners=False)
    cropped = F.grid_sample(premultiplied, grid, align_corners=False)
    return F.interpolate(cropped, size=(side, side), mode="area").round().to(torch.uint8)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half length of the occupied stretch of each row, in [-1, 1] coordinates; whole if empty."""
    size = occupied.shape[1]
    first = occupied.int().argmax(dim=1)
    last = size - occupied.flip(1).int().argmax(dim=1)
    first, last = first.float() * 2 / size - 1, last.float() * 2 / size - 1
    return (first + last) / 2, (last - first) / 2


def _pyramid(base: Tensor) -> tuple[Tensor, ...]:
    levels = [base]
    while levels[-1].shape[-1] > 16 and levels[-1].shape[-1] % 2 == 0:
        levels.append(F.avg_pool2d(levels[-1].float(), 2).round().to(torch.uint8))
    return tuple(levels)
