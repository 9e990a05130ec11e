"""Object removal and region invariance: how replacing a region changes the noun and its neurons.

Conditions: the same scene composed without the object, where the data set has it, with the scene composed without
another object as a control; the object's vectors replaced by a mean vector (Neo et al. 2024), with as many random
background patches replaced as a control; the whole background's vectors replaced or shuffled. Differences of
activation between the picture with and without its object, in both directions, are another way to find neurons
(two-stage filtering).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis.effects.by_row import batches
from lens_multimodal.experiments.follow_ups import object_removal as removal
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.conditions import Conditions, measured, with_captions
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.object_patches import object_patches
from lens_multimodal.experiments.shared.picture_state import SaidNoun, pairs_of
from lens_multimodal.experiments.shared.random_parts import mean_vector, vectors_of
from lens_multimodal.experiments.shared.summaries import (
    Drawing,
    Evidence,
    Pair,
    SummaryTable,
    Verdict,
    answer_of,
    too_few,
)
from lens_multimodal.hooks import record
from lens_multimodal.precision import wide
from lens_multimodal.seeds import generator_for

# --- summaries over all pictures ------------------------------------------------------------------------------

CHANGE = "change of the log probability"

REGION_MEASURES = {
    "change": CHANGE,
    "overlap": "neurons in common with the picture's",
    "caption_says_noun": "captions that say the noun",
    "overlap_by_difference": "overlap of attribution with differences of activation",
}

REMOVALS = (
    (
        Pair(column="condition", first=removal.EXACT, second=removal.EXACT_CONTROL),
        "Composing the scene without the object",
        "composing it without another object",
    ),
    (
        Pair(column="condition", first=removal.REPLACED, second=removal.REPLACED_CONTROL),
        "Replacing the object's patches by the mean vector",
        "replacing as much background",
    ),
)
"""Each way to remove the object with its control, and their names in the verdict."""


def _region_measures(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    regions = tables["regions"]
    whole = regions[regions["condition"] == "picture"].set_index("image_id")["log_probability"]
    changed = regions.assign(
        change=regions["log_probability"] - regions["image_id"].map(whole),
        size=regions["n_object"] / regions["n_positions"],
    )
    return stats.by_measure(changed, REGION_MEASURES, keys=["condition", "size"])


def _region_facts(rows: pd.DataFrame) -> Mapping[str, object]:
    one = rows[rows["measure"] == CHANGE]
    exact, n = int((one["condition"] == removal.EXACT).sum()), one["image_id"].nunique()
    removed = f"{exact} of {n} pictures; the data set has none for the others"
    if exact == n:
        removed = "all pictures"
    elif not exact:
        removed = "this data set has no such scenes: nothing here is removed exactly"
    return {"size": one["size"].mean(), "exactly": removed}


def _regions_verdict(evidence: Evidence) -> Verdict:
    """Each way of removal against its control; the claim is answered by the most exact way that has enough pictures."""
    own = evidence.rows[evidence.rows["measure"] == CHANGE]
    found = [verdict for way in REMOVALS if (verdict := _removal(own, evidence.seed, *way))]
    if not found:
        return too_few(own["image_id"].nunique())
    return replace(found[0], text=" ".join(verdict.text for verdict in found))


def _removal(own: pd.DataFrame, seed: int, pair: Pair, doing: str, control: str) -> Verdict | None:
    """What one way of removing the object does to the noun, beside its control; None on too few pictures."""
    paired = pair.differences(own, seed=seed)
    n = int(paired["n"].sum())
    if n < stats.needed():
        return None
    sides = pair.sides(own, seed=seed)
    first, second = (stats.in_words(row, signed=True) for _, row in sides.iterrows())
    above = stats.is_above(paired.iloc[0])
    said = {
        False: "The object matters MORE than its control",
        True: "The object matters LESS than its control",
        None: "The difference is NOT established",
    }[above]
    return Verdict(
        text=(
            f"{doing} changes the noun's log probability by {first} nats, {control} by {second}. {said} "
            f"(n = {n} pictures)."
        ),
        answer=answer_of(above, expected=False),
        compared=sides,
        unit="change of the noun's log probability (nats)",
    )


REGIONS = SummaryTable(
    name="regions",
    table="regions",
    title="Regions: object removed, background shuffled",
    caption=(
        "Scene without it: the same scene composed without the object, or without another one, and encoded again "
        "({exactly}). Mean vector: the image vectors of the object's patches, of as many random background patches or "
        "of the whole background, replaced by the mean vector of the data set. Shuffled: the background's vectors "
        "in random order. Over {n} pictures whose caption names an annotated category; objects take {size:.0%} of the "
        "patches. Last measure: neurons whose activation falls most when the object is removed, among those of largest "
        "attribution."
    ),
    rows=_region_measures,
    by=("measure", "condition"),
    facts=_region_facts,
    verdict=_regions_verdict,
    claim="Removing the object makes the noun less likely than removing something else.",
    drawing=Drawing(kind="bars", x="condition", series="condition", panels="measure", y_title="change or share"),
)


# --- rows of one picture ---------------------------------------------------------------------------------------


def region_rows(context: Context[Any], noun: SaidNoun) -> Iterator[Row]:
    """One row for each condition."""
    picture, category = context.picture, str(noun.noun.category)
    on_object = object_patches(picture, category, context.settings.covered)
    pictures = {
        removal.EXACT: removal.picture_without(picture.scene, category),
        removal.EXACT_CONTROL: removal.picture_without_another(picture.scene, category),
    }
    composed = {name: other for name, other in pictures.items() if other is not None}
    vectors = {
        "picture": picture.vectors.detach(),
        **dict(
            zip(
                composed, vectors_of(picture.lens.images, composed.values(), batch_size=picture.batch_size), strict=True
            )
        ),
        **_without_regions(context, on_object),
    }
    conditions = Conditions.of(picture.lens, picture, noun, vectors)
    reference = set(pairs_of(picture.top[0]))
    rows = measured(context, conditions, purpose="follow_ups", reference=reference)
    removed = [name for name in (removal.EXACT, removal.REPLACED) if name in vectors]
    overlap = {
        name: len(set(pairs_of(table)) & reference) / len(reference)
        for name, table in activation_differences(conditions, of="picture", to=removed).items()
    }
    for row in with_captions(context, conditions, rows):
        yield {
            "image_id": picture.scene.id,
            "noun": noun.name,
            "n_object": int(on_object.sum()),
            "n_positions": len(on_object),
            **row,
            "overlap_by_difference": overlap.get(str(row["condition"])),
        }


def _without_regions(
    context: Context[Any], on_object: Bool[Tensor, " image_pos"]
) -> dict[str, Float[Tensor, "image_pos d_model"]]:
    """The picture's vectors, shuffled or replaced by region; without background, no condition of it."""
    own, mean = context.picture.vectors.detach(), mean_vector(context, context.settings.mean_over)
    inside, outside = on_object.nonzero().flatten(), (~on_object).nonzero().flatten()
    generator = generator_for(context.picture.seed, "follow_ups", context.picture.scene.id, "regions")
    found = {removal.REPLACED: own.clone()}
    found[removal.REPLACED][inside] = mean
    if len(outside):
        order = outside[torch.randperm(len(outside), generator=generator)]
        shuffled, without, some = own.clone(), own.clone(), own.clone()
        shuffled[outside] = own[order]
        without[outside] = mean
        some[order[: len(inside)]] = mean
        found |= {
            "background shuffled": shuffled,
            "background removed (mean vector)": without,
            removal.REPLACED_CONTROL: some,
        }
    return found


def activation_differences(conditions: Conditions, *, of: str, to: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The neurons whose activation differs most between a condition and each of several others, as many as
    attribution finds.

    Args: of, to: names of conditions; a neuron's difference is the largest `of - to` over image positions.
    Returns: by each name of `to` the columns `layer`, `neuron`, `difference`, largest first.
    """
    picture, model = conditions.picture, conditions.lens.model
    rows = [conditions.names.index(name) for name in (of, *to)]
    names = [transformer.mlp_post(layer) for layer in range(transformer.shape(model).n_layers)]
    kept = [record(model, conditions.tokens[rows[batch]], names) for batch in batches(len(rows), picture.batch_size)]
    largest = []
    for name in names:
        own, *others = (row[picture.image_pos.to(row.device)] for batch in kept for row in batch[name])
        largest.append(torch.stack([wide(own - other).amax(0).cpu() for other in others]))
    of_layers = torch.stack(largest, dim=1)
    return {name: _largest(of_layers[i], picture.settings.top_k) for i, name in enumerate(to)}


def _largest(differences: Float[Tensor, "layer d_mlp"], count: int) -> pd.DataFrame:
    best = differences.flatten().argsort(descending=True, stable=True)[:count]
    d_mlp = differences.shape[1]
    return pd.DataFrame(
        {
            "layer": (best // d_mlp).numpy(),
            "neuron": (best % d_mlp).numpy(),
            "difference": differences.flatten()[best].numpy(),
        }
    )
