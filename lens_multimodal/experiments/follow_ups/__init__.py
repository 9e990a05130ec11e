"""What later work asks of such neurons (paper notes, section 5), for the first noun of each caption.

- Region invariance and object removal: the neurons are found again in the same scene composed without the object, where
  the data set has it, beside the scene composed without another object; with the object's vectors replaced by a mean
  vector (Neo et al. 2024), as in any data set, beside as many random background patches replaced; with the whole
  background's vectors replaced, and shuffled. Only where the caption names an annotated category.
- Differences of activation between the picture and the same without its object, both ways, as a way to find neurons
  (two-stage filtering), against attribution.
- The gradient-free score (Pan et al. 2024) against the paper's: rank correlation and overlap.
- Semantic sensitivity: closeness of a neuron's decoded words to the noun; specificity and invariance across pictures:
  overlap of the neurons found for the same and for other nouns, here and in other pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_multimodal.analysis import Logit, top_neurons
from lens_multimodal.data import Scene
from lens_multimodal.experiments.controls.conditions import Conditions, as_pairs, measured
from lens_multimodal.experiments.controls.models import vectors_of
from lens_multimodal.experiments.depth import object_cells
from lens_multimodal.experiments.experiment import Context, Summary
from lens_multimodal.experiments.follow_ups import summary
from lens_multimodal.experiments.follow_ups.removal import (
    EXACT,
    EXACT_CONTROL,
    REPLACED,
    REPLACED_CONTROL,
    picture_without,
    picture_without_another,
)
from lens_multimodal.experiments.follow_ups.vectors import activation_differences, mean_vector
from lens_multimodal.experiments.picture import PictureState, SaidNoun
from lens_multimodal.experiments.words.agreement import EmbeddingSpace
from lens_multimodal.seeds import generator_for

GRADIENT_FREE = "activation_x_decoded"


@dataclass(frozen=True, kw_only=True)
class FollowUpsSettings:
    """How the object is told from the background, and what scores are compared on.

    Raises: ValueError for a share outside 0 to 1, or less than one picture or noun.
    """

    covered: float = 0.1
    """Share of an image patch that the object must cover for the patch to be taken away with it."""
    mean_over: int = 64
    """Pictures of the data set whose vectors make the mean vector."""
    n_other_nouns: int = 1
    """Other categories of the data set, drawn for each picture, whose neurons are compared with the noun's."""

    def __post_init__(self) -> None:
        if not 0 < self.covered <= 1:
            raise ValueError(f"covered must lie in (0, 1], got {self.covered}")
        if self.mean_over < 1 or self.n_other_nouns < 1:
            raise ValueError(f"expected at least one picture and one other noun, got {self}")


class FollowUps:
    """Regions, removal, gradient-free score, sensitivity, specificity, invariance."""

    name = "follow_ups"
    version = 2
    tables = ("regions", "scores", "neurons")
    settings = FollowUpsSettings

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:
        picture: PictureState = context.picture
        if not picture.nouns:
            return {name: pd.DataFrame({"image_id": []}) for name in self.tables}
        noun = picture.nouns[0]
        regions = list(_regions(context, scene, noun)) if noun.in_picture else []
        return {
            "regions": pd.DataFrame(regions) if regions else pd.DataFrame({"image_id": []}),
            "scores": pd.DataFrame(_scores(context, noun)),
            "neurons": pd.DataFrame(_neurons(context, noun)),
        }

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        return summary.summarise(rows, seed=seed)


def _regions(context: Context, scene: Scene, noun: SaidNoun) -> Iterator[dict[str, object]]:
    picture: PictureState = context.picture
    category = str(noun.noun.category)
    on_object = object_cells(context, scene, category, context.settings.covered)
    vectors = {
        "picture": picture.vectors.detach(),
        **_composed_anew(context, scene, category),
        **_without_regions(context, on_object),
    }
    conditions = Conditions.of(context.lens, picture, noun, vectors)
    reference = as_pairs(picture.top[0])
    rows = measured(context, conditions, purpose="follow_ups", reference=reference)
    top_k = picture.settings.top_k
    overlap = {
        name: len(as_pairs(activation_differences(conditions, of="picture", to=name, top_k=top_k)) & reference)
        / len(reference)
        for name in (EXACT, REPLACED)
        if name in vectors
    }
    for row, caption in zip(rows, conditions.captions(), strict=True):
        yield {
            "image_id": scene.id,
            "noun": noun.name,
            "n_object": int(on_object.sum()),
            "n_positions": len(on_object),
            **row,
            "caption": caption,
            "caption_says_noun": noun.name in {found.name for found in context.words(caption)},
            "overlap_by_difference": overlap.get(str(row["condition"])),
        }


def _without_regions(
    context: Context, on_object: Bool[Tensor, " image_pos"]
) -> dict[str, Float[Tensor, "image_pos d_model"]]:
    """The picture's vectors, shuffled or replaced region by region; no background, no condition of it."""
    picture: PictureState = context.picture
    own, mean = picture.vectors.detach(), mean_vector(context)
    inside, outside = on_object.nonzero().flatten(), (~on_object).nonzero().flatten()
    generator = generator_for(context.seed, "follow_ups", picture.scene.id, "regions")
    found = {REPLACED: own.clone()}
    found[REPLACED][inside] = mean
    if len(outside):
        order = outside[torch.randperm(len(outside), generator=generator)]
        shuffled, without, some = own.clone(), own.clone(), own.clone()
        shuffled[outside] = own[order]
        without[outside] = mean
        some[order[: len(inside)]] = mean
        found |= {"background shuffled": shuffled, "background removed (mean vector)": without, REPLACED_CONTROL: some}
    return found


def _composed_anew(context: Context, scene: Scene, category: str) -> dict[str, Float[Tensor, "image_pos d_model"]]:
    """Image vectors of the scene composed without the object, and without another; nothing where there are none."""
    pictures = {EXACT: picture_without(scene, category), EXACT_CONTROL: picture_without_another(scene, category)}
    return {name: vectors_of(context.lens, other) for name, other in pictures.items() if other is not None}


def _scores(context: Context, noun: SaidNoun) -> Iterator[dict[str, object]]:
    """The gradient-free score beside the paper's, at the image positions and at the last position."""
    picture: PictureState = context.picture
    paper = picture.ranked[0]
    top = as_pairs(picture.top[0])
    for where, positions in (("image positions", picture.image_pos), ("last position", [noun.read_pos])):
        other = top_neurons(
            context.lens.model,
            picture.tokens[:, : noun.read_pos + 1],
            Logit(token=noun.token),
            positions,
            top_k=picture.settings.n_ranked,
            score=GRADIENT_FREE,
            reduce=picture.settings.reduce,
        )
        both = paper.merge(other, on=["layer", "neuron"], suffixes=("", "_other"))
        ranks = both[["attribution", "attribution_other"]].rank()
        best = other.head(picture.settings.top_k)
        yield {
            "image_id": picture.scene.id,
            "noun": noun.name,
            "score": GRADIENT_FREE,
            "where": where,
            "spearman": float(ranks.iloc[:, 0].corr(ranks.iloc[:, 1])),
            "n_compared": len(both),
            "overlap": len(as_pairs(best) & top) / len(top),
            "mean_layer": float(best["layer"].mean()),
            "mean_layer_paper": float(picture.top[0]["layer"].mean()),
        }


def _neurons(context: Context, noun: SaidNoun) -> Iterator[dict[str, object]]:
    """The noun's neurons as lists, to be compared across pictures, with other nouns' and with random ones."""
    picture: PictureState = context.picture
    top, random = picture.top[0], picture.random[0]
    space = context.once("embedding space", lambda: EmbeddingSpace.of(context.lens.model))
    others = _other_nouns(context, noun)
    tables = top_neurons(
        context.lens.model,
        picture.tokens[:, : noun.read_pos + 1],
        [Logit(token=context.words.first_token(name)) for name in others] or [Logit(token=noun.token)],
        picture.image_pos,
        top_k=picture.settings.top_k,
        score=picture.settings.score,
        reduce=picture.settings.reduce,
    )
    size = len(tables) // max(1, len(others))
    overlaps = [
        len(as_pairs(tables.iloc[i * size : (i + 1) * size]) & as_pairs(top)) / len(top) for i in range(len(others))
    ]
    yield {
        "image_id": picture.scene.id,
        "noun": noun.name,
        "layers": top["layer"].tolist(),
        "neurons": top["neuron"].tolist(),
        "other_nouns": others,
        "overlap_other_nouns": float(np.mean(overlaps)) if overlaps else None,
        "overlap_chance": len(top) / context.lens.shape.n_neurons,
        "sensitivity_top": _sensitivity(space, picture, top, noun),
        "sensitivity_random": _sensitivity(space, picture, random, noun),
    }


def _other_nouns(context: Context, noun: SaidNoun) -> list[str]:
    """Categories of the data set that are not in the picture and that the caption does not say."""
    picture: PictureState = context.picture
    every: list[str] = context.once(
        "follow_ups.categories", lambda: sorted({name for scene in context.scenes for name in scene.categories})
    )
    said = {own.name for own in picture.nouns} | set(picture.human_nouns)
    left = [
        name for name in every if name.lower() not in said and context.words.first_token(name.lower()) != noun.token
    ]
    generator = generator_for(context.seed, "follow_ups", picture.scene.id, "other nouns")
    order = torch.randperm(len(left), generator=generator)[: context.settings.n_other_nouns].tolist()
    return [left[i].lower() for i in order]


def _sensitivity(space: EmbeddingSpace, picture: PictureState, neurons: pd.DataFrame, noun: SaidNoun) -> float:
    """Mean over neurons of the closeness of the nearest of their ten words to the noun."""
    tokens = picture.with_words(neurons)["token_ids"]
    flat = [token for ids in tokens for token in ids]
    cosine = space.cosine(flat, [noun.token])[:, 0].reshape(len(tokens), -1)
    return float(cosine.amax(dim=1).mean())
