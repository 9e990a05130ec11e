"""The two prompts of a sweep: their padding, and which position of one goes to which of the other."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lens_multimodal.arguments.positions import Positions, read_positions


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two prompts without their padding, and pairs of positions counted along the prompts as they were given."""

    clean: Tensor
    corrupted: Tensor
    clean_padding: int
    corrupted_padding: int
    source: dict[int, int]
    """Position of the corrupted prompt, ascending → position of the clean one whose activation it gets."""

    @classmethod
    def of(
        cls,
        clean_tokens: Tensor,
        corrupted_tokens: Tensor,
        *,
        positions: Positions,
        source_positions: Positions,
        clean_mask: Tensor | None,
        corrupted_mask: Tensor | None,
    ) -> "Pair":
        """Check the prompts and match their positions.

        Raises: ValueError for anything but one prompt each, masks that are no left padding, unequal lengths without
            listed positions on both sides, and positions that do not exist or are padding.
        """
        for name, tokens in (("clean_tokens", clean_tokens), ("corrupted_tokens", corrupted_tokens)):
            if tokens.ndim != 2 or tokens.shape[0] != 1:
                raise ValueError(f"expected {name} of one prompt, [1, pos], got {list(tokens.shape)}")
        paddings = _padding(clean_mask, clean_tokens, "clean"), _padding(corrupted_mask, corrupted_tokens, "corrupted")
        return cls(
            clean=clean_tokens[:, paddings[0] :],
            corrupted=corrupted_tokens[:, paddings[1] :],
            clean_padding=paddings[0],
            corrupted_padding=paddings[1],
            source=_matched((clean_tokens.shape[1], corrupted_tokens.shape[1]), paddings, positions, source_positions),
        )

    @property
    def positions(self) -> list[int]:
        """Positions of the corrupted prompt that can be patched, as it was given."""
        return list(self.source)

    def aligned(self, clean: Tensor) -> Tensor:
        """An activation of the clean run, `[pos, ...]`, laid out along the corrupted one; NaN where nothing fits."""
        n_pos = self.corrupted.shape[1]
        laid_out = clean.new_full((n_pos, *clean.shape[1:]), torch.nan)
        to = [position - self.corrupted_padding for position in self.source]
        laid_out[to] = clean[[position - self.clean_padding for position in self.source.values()]]
        return laid_out

    def within(self, position: int) -> int:
        """A position of the corrupted prompt as given, counted without its padding."""
        return position - self.corrupted_padding


def _padding(mask: Tensor | None, tokens: Tensor, which: str) -> int:
    """Number of padded positions on the left."""
    if mask is None:
        return 0
    if mask.shape != tokens.shape:
        raise ValueError(
            f"{which}_mask has shape {list(mask.shape)}, expected that of its tokens, {list(tokens.shape)}"
        )
    row = mask[0].bool().cpu()
    n_padded = int((~row).sum())
    if n_padded == len(row) or bool(row[:n_padded].any()):
        raise ValueError(f"{which}_mask must be zero on the left and one on the right, got {row.int().tolist()}")
    return n_padded


def _matched(
    lengths: tuple[int, int], paddings: tuple[int, int], positions: Positions, source_positions: Positions
) -> dict[int, int]:
    n_clean, n_corrupted = lengths
    to = read_positions(positions)
    if source_positions is None:
        if n_clean != n_corrupted:
            raise ValueError(
                f"the prompts have unequal length, {n_clean} and {n_corrupted} positions: say which go together with "
                f"positions (of the corrupted prompt) and source_positions (of the clean one), such as the "
                f"image_pos[0] of each, or, counted from the right, range({n_corrupted} - n, {n_corrupted}) and "
                f"range({n_clean} - n, {n_clean}); two rows of one left-padded prompt need only their masks"
            )
        chosen = to.mask(n_corrupted, device=torch.device("cpu"))
        if len(chosen) != 1:
            raise ValueError("a sweep patches one prompt: give its positions as a list or a slice")
        pairs = [(p, p) for p in chosen[0].nonzero().flatten().tolist()]
    else:
        take = read_positions(source_positions)
        if to.listed is None or take.listed is None:
            raise ValueError("source_positions need both sides listed: give positions and source_positions with an end")
        cpu = torch.device("cpu")
        sides: tuple[Any, Any] = (to.index(n_corrupted, device=cpu), take.index(n_clean, device=cpu))
        if len(sides[0]) != len(sides[1]):
            raise ValueError(
                f"{len(sides[1])} source_positions cannot be copied to {len(sides[0])} positions one by one"
            )
        pairs = sorted(zip(*(side.tolist() for side in sides), strict=True))
    padded = [p for p, q in pairs if p < paddings[1] or q < paddings[0]]
    if padded and to.listed is not None:
        raise ValueError(f"positions {padded[:5]} are padding in one of the prompts, there is nothing to patch there")
    kept = {p: q for p, q in pairs if p not in set(padded)}
    if not kept:
        raise ValueError("a sweep needs at least one position of the prompt, given as a list or a slice")
    return kept
