"""The rows of a store that one batch of pictures gives: which positions, and what is there."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.image.layout import NO_PATCH
from lens_multimodal.prompt import generation
from lens_multimodal.prompt.assembling import batched
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.image_prompt import ImagePrompt
from lens_multimodal.runs.opened_pictures import OpenedPicture, prompt_of
from lens_multimodal.store.store_settings import StoreSettings

NOTHING = -1
"""Row, column or token of a position that has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowColumns:
    """What a store records about each row besides its activations."""

    image_id: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]
    """Position in the picture's own prompt, without padding."""
    patch_row: Int[Tensor, " row"]
    """Row of the image patch, within its grid; -1 for words, and where a position shows no pixels."""
    patch_col: Int[Tensor, " row"]
    token: Int[Tensor, " row"]
    """Token id of a word; -1 at image positions."""
    category: Int[Tensor, " row"]
    """The category that covers most of the patch, as its place in the manifest's `categories`; -1 if not asked for."""
    share: Float[Tensor, " row"]
    """The share that it covers."""

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


DTYPE_OF = {
    "image_id": torch.int64, "pos": torch.int32, "patch_row": torch.int16, "patch_col": torch.int16,
    "token": torch.int32, "category": torch.int16, "share": torch.float32,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchOfRows:
    """The rows of one batch, in the order of its pictures and positions."""

    columns: RowColumns
    per_picture: list[int]
    """Rows of each picture."""
    activations: dict[str, Tensor]
    """By hook point, `[row, ...]`, on the model's device."""
    finite: dict[str, Tensor]
    """By hook point, whether all values are finite, on the model's device."""


@torch.no_grad()
def rows_of(
    lens: CaptioningModel, pictures: Sequence[OpenedPicture], settings: StoreSettings, categories: Sequence[str]
) -> BatchOfRows:
    """One forward pass over readable pictures, and the activations at the chosen positions.

    Args: categories: of the data set, in the order of the manifest.
    """
    prompt = prompt_of(lens, pictures, settings.text)
    full = with_captions(lens, prompt, settings.max_new_tokens) if settings.positions == "caption" else prompt
    per_row = [_chosen(full, row, picture, settings, prompt, categories) for row, picture in enumerate(pictures)]
    at = torch.cat([torch.full((len(own["at"]),), row) for row, own in enumerate(per_row)])
    pos = torch.cat([own["at"] for own in per_row])
    activations, finite = activations_at(lens, full, settings, at, pos)
    lens.forget(prompt)
    columns = {name: torch.cat([own[name] for own in per_row]).to(dtype) for name, dtype in DTYPE_OF.items()}
    return BatchOfRows(
        columns=RowColumns(**columns),
        per_picture=[len(own["at"]) for own in per_row],
        activations=activations,
        finite=finite,
    )


def activations_at(
    lens: CaptioningModel, prompt: ImagePrompt, settings: StoreSettings, rows: Int[Tensor, " n"], pos: Int[Tensor, " n"]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Activations at pairs of rows and positions of a prompt, by hook point, and whether they are finite.

    Raises: ValueError for a hook point whose activations are not `[batch, pos, ...]`; as `transformer.fired_hooks`.
    """
    found: dict[str, Tensor] = {}
    finite: dict[str, Tensor] = {}
    n_rows, n_pos = prompt.tokens.shape
    dtype = settings.dtype_for(lens)

    def keep(name: str) -> transformer.HookFunction:
        def pick(activation: Any, hook: Any) -> None:
            if tuple(activation.shape[:2]) != (n_rows, n_pos) or tuple(activation.shape[2:]) == (n_pos, n_pos):
                raise ValueError(
                    f"{name} has activations of shape {list(activation.shape)}; a store holds one row for each "
                    f"position, from activations of shape [batch={n_rows}, pos={n_pos}, ...]"
                )
            chosen = activation[rows.to(activation.device), pos.to(activation.device)].to(dtype)
            found[name], finite[name] = chosen, chosen.isfinite().all()

        return pick

    transformer.logits_of(
        lens.model,
        prompt.tokens,
        attention_mask=prompt.attention_mask,
        first=prompt.last_pos,
        hooks=[(name, keep(name)) for name in settings.names],
    )
    return {name: found[name] for name in settings.names}, finite


def with_captions(lens: CaptioningModel, prompt: ImagePrompt, max_new_tokens: int) -> ImagePrompt:
    """Each row followed by the model's own caption, on the same images; rows are padded on the left."""
    captions = generation.generate(lens.model, prompt, max_new_tokens=max_new_tokens, stop_ids=lens.text.stop_ids)
    longer = [prompt.row(row).followed_by(lens.text.first_line(caption)) for row, caption in enumerate(captions)]
    return batched(longer, pad_id=lens.text.pad_id)


def _chosen(
    full: ImagePrompt,
    row: int,
    picture: OpenedPicture,
    settings: StoreSettings,
    before: ImagePrompt,
    categories: Sequence[str],
) -> dict[str, Tensor]:
    """The columns of one picture's rows; `at` is the position within the padded batch."""
    (span,) = full.spans[row]
    padding = int((full.attention_mask[row] == 0).sum())
    n_pos = full.tokens.shape[1]
    patches, words = torch.tensor(span.positions), torch.arange(span.stop, n_pos)
    category, share = torch.full((n_pos,), NOTHING), torch.zeros(n_pos)
    if settings.with_objects:
        names = [name for name in picture.covered if settings.categories is None or name in settings.categories]
        if names:
            best = torch.stack([picture.covered[name] for name in names]).max(dim=0)
            category[patches] = torch.tensor([categories.index(name) for name in names])[best.indices]
            share[patches] = best.values
    if settings.positions == "image":
        at = patches
    elif settings.positions == "objects":
        at = patches[share[patches] >= settings.covered]
    elif settings.positions == "text":
        at = words
    elif settings.positions == "caption":
        at = words[before.tokens.shape[1] - before.spans[row][0].stop :]
    else:
        at = torch.cat([patches, words])
    is_word = at >= span.stop
    cells = torch.full((n_pos, 2), NOTHING)
    if settings.positions not in ("text", "caption") and span.image.layout.is_placed:
        cells[patches] = torch.tensor([span.image.cell(index) or NO_PATCH for index in range(len(span.image))])
    ids = full.tokens[row].cpu()[at]
    return {
        "at": at,
        "image_id": torch.full((len(at),), picture.scene.id),
        "pos": at - padding,
        "patch_row": cells[at, 0],
        "patch_col": cells[at, 1],
        "token": torch.where(is_word, ids, NOTHING),
        "category": category[at],
        "share": share[at],
    }
