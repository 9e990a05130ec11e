"""Image patches that a processor returns as rows of numbers, one row per patch (Qwen2-VL), and the vectors that read
them.

Their order is measured, not looked up: a painted picture shows where each row was cut, and gradients show which vector
depends on it.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lens_multimodal.image.measured_layout import TouchedPixels

SURE = 0.1
"""The share of a patch's gradient that another vector may have by rounding."""


def assembled(
    painted: Sequence[Shaped[Tensor, "patch number"]], *, side: int
) -> tuple[list[Shaped[Tensor, "3 height width"]], Int[Tensor, "patch 2"]]:
    """Processed coordinate pictures reassembled from their patches, and each patch's row and column.

    Args:
        painted: the processed `painted_coordinates`, with the same patches of each.
        side: height and width of a patch in pixels. Copies of a still picture over time count once.
    """
    patches = [rows.reshape(len(rows), 3, -1, side, side)[:, :, 0] for rows in painted]
    mean = torch.stack([own.double() for own in patches]).mean(dim=0).mean(dim=(-1, -2))
    cells = torch.stack([_ranks(mean[:, 1]), _ranks(mean[:, 0])], dim=1)
    n_rows, n_columns = (int(count) + 1 for count in cells.amax(dim=0))
    pictures = []
    for own in patches:
        grid = own.new_zeros(n_rows, n_columns, 3, side, side)
        grid[cells[:, 0], cells[:, 1]] = own
        pictures.append(grid.permute(2, 0, 3, 1, 4).reshape(3, n_rows * side, n_columns * side))
    return pictures, cells


def touched_patches(
    vectors: Callable[[Tensor], Float[Tensor, "pos d_model"]],
    rows: Float[Tensor, "patch number"],
    cells: Int[Tensor, "patch 2"],
    *,
    side: int,
) -> list[TouchedPixels | None]:
    """For each vector the pixels of its patches in the picture that `assembled` made; None for a vector without any.

    Args:
        vectors: from the encoder's input to its vectors, without attention, so that a patch reaches only one vector.
        rows: an encoder input; only its shape matters.

    Cost: one pass and one backward pass for each binary digit of the number of vectors.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        noise = torch.randn(rows.shape, generator=generator).to(rows).requires_grad_()
        found = vectors(noise)
        summed = found.float() @ torch.randn(found.shape[1], generator=generator).to(found.device)
        numbers = torch.arange(len(summed), device=summed.device)
        (whole,) = torch.autograd.grad(summed.sum(), noise, retain_graph=True)
        whole = whole.double()
        strength = (whole**2).sum(dim=1)
        reader, sure = torch.zeros(len(rows), dtype=torch.long, device=rows.device), strength > 0
        for digit in range(max(1, (len(summed) - 1).bit_length())):
            has = numbers >> digit & 1
            (part,) = torch.autograd.grad((summed * has).sum(), noise, retain_graph=True)
            share = (part.double() * whole).sum(dim=1) / strength.clamp(min=1e-300)
            reader += (share > 0.5).long() << digit
            sure &= torch.minimum(share.abs(), (share - 1).abs()) < SURE
    touched: list[TouchedPixels | None] = []
    for number in numbers.tolist():
        own = cells[((reader == number) & sure).to(cells.device)]
        if len(own) == 0:
            touched.append(None)
            continue
        (top, left), (bottom, right) = own.amin(dim=0).tolist(), (own.amax(dim=0) + 1).tolist()
        touched.append(
            TouchedPixels(tile=0, top=top * side, bottom=bottom * side, left=left * side, right=right * side)
        )
    return touched


def _ranks(values: Float[Tensor, " patch"]) -> Int[Tensor, " patch"]:
    """Which of the evenly spaced levels each value is, from 0."""
    ordered, order = values.sort()
    steps = ordered.diff()
    rises = steps > max(float(steps.max()) / 2, 1.0) if len(steps) else steps.bool()
    ranks = torch.zeros(len(values), dtype=torch.long, device=values.device)
    ranks[order[1:]] = rises.long().cumsum(dim=0)
    return ranks
