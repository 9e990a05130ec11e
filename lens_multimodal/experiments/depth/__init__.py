"""Where in depth translation happens: logit lens of image positions, and attention cuts (beyond the paper).

Logit lens: at every depth the residual stream at the noun's object, at the background and at the position that
predicts the noun is read out as if it were the last; the noun's rank and probability there are kept.

Attention cuts: text positions may not look at image positions from a layer on, or up to a layer. Where the noun
survives a cut from layer L on, its information has left the image positions below L.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis import LogitLens, logit_lens
from lens_multimodal.analysis.effects.by_row import Reading, read_logits
from lens_multimodal.data import Scene
from lens_multimodal.experiments.depth import summary
from lens_multimodal.experiments.experiment import Context, Summary
from lens_multimodal.experiments.picture import PictureState
from lens_multimodal.experiments.picture.regions import covered_share
from lens_multimodal.hooks import cut_attention


@dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """Which positions count as the object's.

    Raises: ValueError for a share outside 0 to 1.
    """

    covered: float = 0.5
    """Share of an image patch that the object covers; where none reaches it, the patch that comes nearest."""

    def __post_init__(self) -> None:
        if not 0 < self.covered <= 1:
            raise ValueError(f"covered must lie in (0, 1], got {self.covered}")


class Depth:
    """Logit lens and attention cuts by layer."""

    name = "depth"
    version = 1
    tables = ("lens", "cuts")
    settings = DepthSettings

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:
        picture: PictureState = context.picture
        if not picture.nouns:
            return {name: pd.DataFrame({"image_id": []}) for name in self.tables}
        return {
            "lens": pd.DataFrame(_lens(context, scene)),
            "cuts": pd.DataFrame(_cuts(context)),
        }

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        return summary.summarise(rows, seed=seed)


def object_cells(context: Context, scene: Scene, category: str, covered: float) -> Bool[Tensor, " image_pos"]:
    """Which image positions show a category of the scene: never none."""
    share = covered_share(context.picture.geometry, scene.seg_mask(category)).flatten()
    return share >= min(covered, float(share.max()))


def _lens(context: Context, scene: Scene) -> Iterator[dict[str, object]]:
    picture: PictureState = context.picture
    read = logit_lens(context.lens.model, picture.tokens, [noun.token for noun in picture.nouns])
    for index, noun in enumerate(picture.nouns):
        places = {"image": picture.image_pos, "prediction": torch.tensor([noun.read_pos])}
        if noun.in_picture:
            on_object = object_cells(context, scene, str(noun.noun.category), context.settings.covered)
            places["object"] = picture.image_pos[on_object]
            if bool((~on_object).any()):
                places["background"] = picture.image_pos[~on_object]
        for place, positions in places.items():
            for depth in range(read.rank.shape[1]):
                yield {
                    "image_id": scene.id,
                    "noun": noun.name,
                    "in_picture": noun.in_picture,
                    "place": place,
                    "depth": depth,
                    **_reading(read, index, depth, positions),
                }


def _reading(read: LogitLens, token: int, depth: int, positions: Int[Tensor, " pos"]) -> dict[str, object]:
    rank = read.rank[token, depth, positions].double()
    probability = read.probability[token, depth, positions].double()
    return {
        "n_positions": len(positions),
        "mean_rank": float(rank.mean()),
        "best_rank": int(rank.min()),
        "first_choice": float((rank == 0).double().mean()),
        "log_probability": float(probability.log().clamp(min=-100).mean()),
        "probability": float(probability.mean()),
    }


def _cuts(context: Context) -> Iterator[dict[str, object]]:
    picture: PictureState = context.picture
    n_layers = context.lens.shape.n_layers
    kinds = [("from", layer) for layer in range(n_layers + 1)] + [("up to", layer) for layer in range(1, n_layers + 1)]
    reading = _with_cuts(context, [_cut_layers(kind, layer, n_layers) for kind, layer in kinds])
    uncut = kinds.index(("from", n_layers))
    for row, (kind, layer) in enumerate(kinds):
        for index, noun in enumerate(picture.nouns):
            before, after = (float(reading.probability[r, index].double()) for r in (uncut, row))
            yield {
                "image_id": picture.scene.id,
                "noun": noun.name,
                "in_picture": noun.in_picture,
                "cut": kind,
                "layer": layer,
                "probability_before": before,
                "probability_after": after,
                "relative_change": after / before - 1,
                "rank_after": int(reading.rank[row, index]),
            }


def _cut_layers(kind: str, layer: int, n_layers: int) -> range:
    """Layers in which text cannot see the image: `layer` and all after it, or all before `layer`."""
    return range(layer, n_layers) if kind == "from" else range(layer)


def _with_cuts(context: Context, cuts: list[range]) -> Reading:
    """The nouns' predictions, one row for each set of cut layers."""
    picture: PictureState = context.picture
    parts = []
    for start in range(0, len(cuts), context.batch_size):
        chunk = cuts[start : start + context.batch_size]
        hooks: list[transformer.NamedHook] = []
        for layer in range(context.lens.shape.n_layers):
            in_rows = torch.tensor([layer in cut for cut in chunk])
            if bool(in_rows.any()):
                hooks += _cut(context, layer, in_rows)
        parts.append(
            read_logits(
                context.lens.model,
                picture.tokens.expand(len(chunk), -1),
                [(noun.read_pos, noun.token) for noun in picture.nouns],
                hooks,
            )
        )
    return Reading.joined(parts)


def _cut(context: Context, layer: int, in_rows: Bool[Tensor, " row"]) -> list[transformer.NamedHook]:
    picture: PictureState = context.picture
    is_text = torch.ones(picture.tokens.shape[1], dtype=torch.bool)
    is_text[picture.image_pos] = False
    is_text[: int(picture.image_pos[0])] = False
    return cut_attention(
        context.lens.model,
        queries=in_rows[:, None] & is_text,
        keys=picture.image_pos.tolist(),
        layers=layer,
    )
