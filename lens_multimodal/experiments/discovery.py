"""Which neurons turn pictures into words? Found by attribution, decoded, filtered, counted (paper sections 2 and 3).

For each noun of a generated caption the neurons of largest attribution are decoded into ten words each; those with at
least seven English words count as interpretable. The control is as many random neurons of the same layers. How well
decoded words fit the picture is compared, at equal numbers of words, between the found neurons, random neurons, the
decoded image prompts, random tokens and the caption itself.

The file exceeds 300 lines because the experiment has five row tables and as many summaries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.context import Context, Row, frame_of
from lens_multimodal.experiments.shared.image_words import nearest_to_image_prompts, random_tokens
from lens_multimodal.experiments.shared.nouns import says
from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.experiments.shared.summaries import (
    TOP_AGAINST_RANDOM,
    Drawing,
    Evidence,
    PairedVerdict,
    SummaryTable,
)
from lens_multimodal.experiments.shared.word_agreement import (
    AGREEMENT,
    AgreementSettings,
    agreement_rows,
    first_distinct,
)


@dataclass(frozen=True, kw_only=True)
class DiscoverySettings(AgreementSettings):
    """How many neurons give words to the comparison with the picture; the rest is in `PictureSettings`."""

    n_speaking: int = 5
    """The paper shows the best five interpretable neurons of a picture."""


# --- summaries over all pictures ------------------------------------------------------------------------------

THIRDS = ("first", "middle", "last")

CAPTION_SHARES = {"right": "captions that say something in the picture"}
NOUN_SHARES = {
    "in_picture": "nouns that are in the picture",
    "in_human_captions": "nouns that people say",
    "long": "nouns of more than one token",
}
NEURON_SHARES = {
    "interpretable": "interpretable",
    "says_noun": "say the noun",
    "says_human_noun": "say a noun of people's captions",
}


def _caption_shares(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    captions, nouns = tables["captions"], tables["nouns"]
    parts = [stats.by_measure(captions, CAPTION_SHARES, keys=[], name="share")]
    if len(nouns):
        parts.append(stats.by_measure(nouns.assign(long=nouns["n_tokens"] > 1), NOUN_SHARES, keys=[], name="share"))
    return pd.concat(parts)


def _captions_verdict(evidence: Evidence) -> str:
    """How often the captions are right."""
    row = evidence.frame.iloc[0]
    n = int(row["n"])
    if n < stats.ENOUGH:
        return stats.too_few(n)
    above = stats.is_above(row, 0.5)
    said = {True: "MOSTLY name", False: "MOSTLY DO NOT name", None: "name about as often as not"}[above]
    wrong = ": the experiments then mostly explain something that the picture does not show" if above is False else ""
    share = stats.in_words(row, percent=True)
    return f"Captions {said} something that is in the picture: {share} of them do (n = {n} pictures){wrong}."


def _kinds(neurons: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {"top": neurons, "top and interpretable": neurons[neurons["interpretable"]]}


def _layer_shares(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Share of a picture's found neurons in each layer of the model, so that all pictures weigh the same."""
    n_layers = int(tables["captions"]["n_layers"].max())
    parts = []
    for kind, table in _kinds(tables["neurons"]).items():
        if len(table):
            shares = pd.crosstab(table["image_id"], table["layer"], normalize="index")
            shares = shares.reindex(columns=range(n_layers), fill_value=0.0)
            long = shares.reset_index().melt("image_id", var_name="layer", value_name="value")
            parts.append(long.assign(neurons=kind, layer=long["layer"].astype(int)))
    return pd.concat(parts)


def _layers_verdict(evidence: Evidence) -> str:
    """The third of the layers that holds most of the found neurons, against an even spread."""
    n, n_layers = evidence.facts["n"], evidence.facts["n_layers"]
    if n < stats.ENOUGH or n_layers < len(THIRDS):
        return stats.too_few(n) if n < stats.ENOUGH else ""
    third_of = [layer * len(THIRDS) // n_layers for layer in range(n_layers)]
    long = evidence.rows[evidence.rows["neurons"] == "top"]
    long = long.assign(third=[third_of[layer] for layer in long["layer"]])
    of_thirds = long.groupby(["third", "image_id"], as_index=False)["value"].sum()
    table = stats.interval_table(of_thirds, "value", by=["third"], seed=evidence.seed)
    most = table.loc[table["mean"].idxmax()]
    even = third_of.count(most["third"]) / n_layers
    concentrated = stats.is_above(most, even)
    said = "concentrate in" if concentrated else "do NOT concentrate in any third of the layers; most are in"
    return (
        f"Found neurons {said} the {THIRDS[int(most['third'])]} third of the {n_layers} layers: "
        f"{stats.in_words(most, percent=True)} of a picture's, where an even spread would put {100 * even:.0f} % "
        f"(n = {n} pictures)."
    )


def _distinct(neurons: pd.DataFrame, _: int) -> pd.DataFrame:
    rows = []
    for kind, table in _kinds(neurons).items():
        pictures = table.groupby(["layer", "neuron"])["image_id"].nunique()
        rows.append(
            {
                "neurons": kind,
                "distinct": len(pictures),
                "in two pictures or more": int((pictures >= 2).sum()),
                "in a tenth of the pictures": int((pictures >= 0.1 * neurons["image_id"].nunique()).sum()),
                "most pictures of one neuron": int(pictures.max()) if len(pictures) else 0,
            }
        )
    return pd.DataFrame(rows)


CAPTIONS = SummaryTable(
    name="captions",
    table="captions",
    title="What the model says",
    caption=(
        "Greedy captions of {n} pictures and the nouns found in them; in the picture means that the noun's category is "
        "annotated there. The experiments explain what the model says, right or wrong."
    ),
    rows=_caption_shares,
    by=("share",),
    verdict=_captions_verdict,
)

WORDS = SummaryTable(
    name="words",
    table="groups",
    title="Neurons that speak",
    caption=(
        "Share of the top neurons by attribution, and of as many random neurons of the same layers, that are "
        "interpretable (7 of 10 decoded tokens are English words) or have the noun among their ten tokens; over {n} "
        "pictures."
    ),
    rows=lambda tables: stats.by_measure(tables["groups"], NEURON_SHARES, keys=["neurons"], name="share"),
    by=("share", "neurons"),
    p_of=TOP_AGAINST_RANDOM,
    paper_key=lambda row, _: (
        "discovery.interpretable_share" if (row.share, row.neurons) == ("interpretable", "top") else None
    ),
    verdict=PairedVerdict(
        pair=TOP_AGAINST_RANDOM,
        where=lambda rows: rows[rows["share"] == NEURON_SHARES["says_noun"]],
        sentence=(
            "The neurons found by attribution {said} random neurons of the same layers: {first} of the found against "
            "{second} of the random (n = {n} pictures)."
        ),
        said={
            True: "write the noun they were found for MORE often than",
            False: "write the noun they were found for LESS often than",
            None: "do NOT write the noun they were found for distinguishably more often than",
        },
        percent=True,
        digits=3,
    ),
    drawing=Drawing(kind="bars", x="share", series="neurons", y_title="share of neurons"),
)

LAYERS = SummaryTable(
    name="layers",
    table="neurons",
    title="Where in depth the found neurons lie",
    caption=(
        "Share of a picture's found neurons in each of the {n_layers} layers; mean over {n} pictures, 95 % bootstrap "
        "intervals."
    ),
    rows=_layer_shares,
    by=("neurons", "layer"),
    facts=lambda rows: {"n_layers": int(rows["layer"].max()) + 1},
    verdict=_layers_verdict,
    drawing=Drawing(kind="bars", x="layer", series="neurons", y_title="share of a picture's neurons"),
)

DISTINCT = SummaryTable(
    name="distinct",
    table="neurons",
    title="Distinct neurons over all pictures",
    caption="Neurons found for any noun of any of {n} pictures, each counted once.",
    frame=_distinct,
    paper_key=lambda row, _: "discovery.distinct" if row.neurons == "top and interpretable" else None,
)


# --- rows of one picture ---------------------------------------------------------------------------------------


class Discovery(Experiment[DiscoverySettings]):
    """The found neurons, their words, and how these fit the picture."""

    name, version = "discovery", 2
    question = "Which neurons turn the image into a word, and where are they?"
    answer = "layers"
    tables = ("captions", "nouns", "neurons", "groups", "agreement")
    settings = DiscoverySettings
    summaries = (CAPTIONS, WORDS, LAYERS, DISTINCT, AGREEMENT)

    def rows(self, context: Context[DiscoverySettings]) -> dict[str, pd.DataFrame]:
        picture = context.picture
        spoken = _spoken(context) if picture.nouns else {}
        return {
            "captions": frame_of([_caption(picture)]),
            "nouns": frame_of(_nouns(picture)),
            "neurons": frame_of(row for i in range(len(picture.nouns)) for row in _neurons(picture, i)),
            "groups": frame_of(row for i in range(len(picture.nouns)) for row in _groups(picture, i)),
            "agreement": frame_of(agreement_rows(context, context.settings, spoken)),
        }


def _spoken(context: Context[DiscoverySettings]) -> dict[str, list[int]]:
    """The tokens of each source that is compared with the picture."""
    picture, settings = context.picture, context.settings
    top, random = (
        [tokens for table in tables for tokens in speaking(picture, table, settings.n_speaking)]
        for tables in (picture.top, picture.random)
    )
    return {
        "neurons": first_distinct(top, settings.n_tokens),
        "random neurons": first_distinct(random, settings.n_tokens),
        "image prompts": first_distinct(nearest_to_image_prompts(context).tokens.tolist(), settings.n_tokens),
        "random tokens": random_tokens(context, settings.n_tokens),
        "caption": picture.caption_ids,
    }


def speaking(picture: PictureState, neurons: pd.DataFrame, count: int) -> Sequence[list[int]]:
    """Tokens of a table's best interpretable neurons; of its best neurons, where none is interpretable."""
    table = picture.with_words(neurons)
    chosen = table[table["interpretable"]].head(count)
    return [list(ids) for ids in (chosen if len(chosen) else table.head(count))["token_ids"]]


def _caption(picture: PictureState) -> Row:
    scene = picture.scene
    return {
        "image_id": scene.id,
        "file_name": scene.path.name,
        "caption": picture.caption,
        "human_caption": scene.captions[0] if scene.captions else None,
        "nouns": [noun.name for noun in picture.nouns],
        "categories": list(scene.categories),
        "right": any(noun.in_picture for noun in picture.nouns),
        "n_layers": picture.lens.shape.n_layers,
    }


def _nouns(picture: PictureState) -> Iterator[Row]:
    if not picture.nouns:
        return
    reading = picture.read([None])
    for index, noun in enumerate(picture.nouns):
        yield {
            "image_id": picture.scene.id,
            "noun": noun.name,
            "category": noun.noun.category,
            "token": noun.token,
            "token_text": noun.token_text,
            "n_tokens": noun.n_tokens,
            "read_pos": noun.read_pos,
            "logit": float(reading.logit[0, index]),
            "probability": float(reading.probability[0, index]),
            "in_picture": noun.in_picture,
            "in_human_captions": noun.in_human_captions,
        }


def _neurons(picture: PictureState, index: int) -> Iterator[Row]:
    for rank, neuron in enumerate(picture.with_words(picture.top[index]).itertuples()):
        row, col = picture.cell(neuron.pos)
        yield {
            **_about(picture, index),
            "rank": rank,
            "layer": int(neuron.layer),
            "neuron": int(neuron.neuron),
            "attribution": float(neuron.attribution),
            "row": row,
            "col": col,
            "tokens": list(neuron.tokens),
            "interpretable": bool(neuron.interpretable),
            "says_noun": any(says(token, {picture.nouns[index].name}) for token in neuron.tokens),
        }


def _groups(picture: PictureState, index: int) -> Iterator[Row]:
    for kind, neurons in (("top", picture.top[index]), ("random", picture.random[index])):
        table = picture.with_words(neurons)
        yield {
            **_about(picture, index),
            "neurons": kind,
            "n": len(table),
            "interpretable": float(table["interpretable"].mean()),
            "says_noun": _share_saying(table, {picture.nouns[index].name}),
            "says_human_noun": _share_saying(table, set(picture.human_nouns)),
        }


def _about(picture: PictureState, index: int) -> Row:
    noun = picture.nouns[index]
    return {
        "image_id": picture.scene.id,
        "noun": noun.name,
        "category": noun.noun.category,
        "in_picture": noun.in_picture,
    }


def _share_saying(table: pd.DataFrame, names: set[str]) -> float:
    return sum(any(says(token, names) for token in tokens) for tokens in table["tokens"]) / len(table)
