"""The two prompts of a sweep: their padding, and which of their positions correspond."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lens_multimodal.arguments.boundary import ArgumentValueError
from lens_multimodal.arguments.positions import Positions, positions_in, read_positions
from lens_multimodal.arguments.targets import ResolvedTarget


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

        Raises: ValueError for anything but one prompt each, masks that are not left padding, unequal lengths without
            positions on both sides, and positions that do not exist or are padding.
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
        """An activation of the clean run, `[pos, ...]`, laid out along the corrupted one; NaN where it has none."""
        n_pos = self.corrupted.shape[1]
        laid_out = clean.new_full((n_pos, *clean.shape[1:]), torch.nan)
        to = [position - self.corrupted_padding for position in self.source]
        laid_out[to] = clean[[position - self.clean_padding for position in self.source.values()]]
        return laid_out

    def within(self, position: int) -> int:
        """A position of the corrupted prompt as given, counted without its padding."""
        return position - self.corrupted_padding

    @staticmethod
    def without_padding(target: ResolvedTarget, n_padded: int) -> ResolvedTarget:
        """A target of a prompt as given, for its logits without padding; a function of all logits gets zeros there.

        Raises: ArgumentValueError for a target that is read at padding.
        """
        if target.pos is None:
            return replace(
                target, function=lambda logits: target.function(torch.nn.functional.pad(logits, (0, 0, n_padded, 0)))
            )
        if target.pos < n_padded:
            raise ArgumentValueError(f"{target.label}: the first {n_padded} positions are padding", "target")
        return replace(target, pos=target.pos - n_padded)


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
    to = positions_in(positions, n_corrupted).tolist()
    if source_positions is None:
        if n_clean != n_corrupted:
            raise ArgumentValueError(
                f"the prompts have unequal lengths, {n_clean} and {n_corrupted} positions; say which correspond "
                f"with positions (of the corrupted prompt) and source_positions (of the clean one), such as the "
                f"image_pos[0] of each, or, counted from the right, range({n_corrupted} - n, {n_corrupted}) and "
                f"range({n_clean} - n, {n_clean}); two rows of one left-padded prompt need only their masks",
                "positions",
            )
        take = to
    else:
        take = positions_in(source_positions, n_clean, name="source_positions").tolist()
        if positions is None or len(take) != len(to):
            raise ArgumentValueError(
                f"expected one for each of the {len(to)} positions, which must be given too; got {len(take)}",
                "source_positions",
            )
    pairs = sorted(zip(to, take, strict=True))
    padded = [p for p, q in pairs if p < paddings[1] or q < paddings[0]]
    if padded and read_positions(positions).listed is not None:
        raise ArgumentValueError(
            f"positions {padded[:5]} are padding in one of the prompts; there is nothing to patch", "positions"
        )
    kept = {p: q for p, q in pairs if p not in set(padded)}
    if not kept:
        raise ArgumentValueError("expected at least one position of the prompt that is not padding", "positions")
    return kept
