"""Which neurons turn pictures into words? Found by attribution, decoded, filtered, counted (paper sections 2 and 3).

For each noun of a generated caption the neurons of largest attribution are decoded into ten words each; those with at
least seven English words count as interpretable. The control is as many random neurons of the same layers. How well
decoded words fit the picture is compared, at equal numbers of words, between the found neurons, random neurons, the
decoded image prompts, random tokens and the caption itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared import word_agreement as agreement
from lens_multimodal.experiments.shared.captions_and_nouns import CAPTIONS, caption_row, noun_rows
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.image_words import nearest_to_image_prompts, random_tokens
from lens_multimodal.experiments.shared.nouns import first_words, said
from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.experiments.shared.summaries import (
    TOP_AGAINST_RANDOM,
    Drawing,
    Evidence,
    PairedVerdict,
    SummaryTable,
    Verdict,
    answer_of,
    too_few,
)


@dataclass(frozen=True, kw_only=True)
class DiscoverySettings(agreement.AgreementSettings):
    """How many neurons contribute words to the comparison with the picture; see also `PictureSettings`."""

    n_speaking: int = 5
    """The paper shows the best five interpretable neurons of a picture."""


# --- summaries over all pictures ------------------------------------------------------------------------------

THIRDS = ("first", "middle", "last")

NEURON_SHARES = {
    "interpretable": "interpretable",
    "says_noun": "write the noun",
    "says_human_noun": "write a noun of people's captions",
}


def _kinds(neurons: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {"top": neurons, "top and interpretable": neurons[neurons["interpretable"]]}


def _layer_shares(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Share of a picture's found neurons in each layer of the model, so that all pictures count equally."""
    n_layers = int(tables["captions"]["n_layers"].max())
    parts = []
    for kind, table in _kinds(tables["neurons"]).items():
        if len(table):
            shares = pd.crosstab(table["image_id"], table["layer"], normalize="index")
            shares = shares.reindex(columns=range(n_layers), fill_value=0.0)
            long = shares.reset_index().melt("image_id", var_name="layer", value_name="value")
            parts.append(long.assign(neurons=kind, layer=long["layer"].astype(int)))
    return pd.concat(parts)


def _layers_verdict(evidence: Evidence) -> Verdict:
    """Whether fewer of the found neurons lie in the first third of the layers than an even spread would put there."""
    n, n_layers = evidence.facts["n"], evidence.facts["n_layers"]
    if n_layers < len(THIRDS):
        return Verdict()
    if n < stats.needed():
        return too_few(n)
    third_of = [THIRDS[layer * len(THIRDS) // n_layers] for layer in range(n_layers)]
    long = evidence.rows[evidence.rows["neurons"] == "top"]
    long = long.assign(third=[third_of[layer] for layer in long["layer"]])
    of_thirds = long.groupby(["third", "image_id"], as_index=False)["value"].sum()
    even = third_of.count(THIRDS[0]) / n_layers
    table = stats.table_against(of_thirds, "value", threshold=even, by=["third"], seed=evidence.seed).set_index("third")
    first = table.loc[THIRDS[0]]
    above = stats.is_above(first, even)
    said = {True: "They lie EARLY", False: "They lie DEEP", None: "A difference is NOT established"}[above]
    return Verdict(
        text=(
            f"{stats.in_words(first, percent=True)} of a picture's top neurons are in the first third of the "
            f"{n_layers} layers, where an even spread would put {100 * even:.0f} %. {said} (n = {n} pictures)."
        ),
        answer=answer_of(above, expected=False),
        compared=table.loc[list(THIRDS)].rename_axis("compared").reset_index(),
        unit="share of a picture's top neurons, by third of the layers",
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


WORDS = SummaryTable(
    name="words",
    table="groups",
    title="Neurons that write English words, and the noun",
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
            "{first} of the top neurons write the noun for which they were found, and {second} of random neurons of "
            "the same layers. {said} (n = {n} pictures)."
        ),
        finding="The top neurons write it {more} often",
        unit="share of neurons that write the noun",
        percent=True,
    ),
    claim="The top neurons write their noun more often than random neurons do.",
    control="writes the noun",
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
    claim="The top neurons lie deep in the model: beyond the first third of the layers.",
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
    summaries = (CAPTIONS, WORDS, LAYERS, DISTINCT, agreement.AGREEMENT)

    def rows(self, context: Context[DiscoverySettings]) -> dict[str, pd.DataFrame]:
        picture = context.picture
        spoken = _spoken(context) if picture.nouns else {}
        return self.frames(
            captions=[caption_row(picture)],
            nouns=noun_rows(picture),
            neurons=(row for i in range(len(picture.nouns)) for row in _neurons(picture, i)),
            groups=(row for i in range(len(picture.nouns)) for row in _groups(picture, i)),
            agreement=agreement.agreement_rows(context, context.settings, spoken),
        )


def _spoken(context: Context[DiscoverySettings]) -> dict[str, list[int]]:
    """The tokens of each source that is compared with the picture."""
    picture, settings = context.picture, context.settings
    top, random = (
        [tokens for table in tables for tokens in speaking(table, settings.n_speaking)]
        for tables in (picture.top_words, picture.random_words)
    )
    return {
        "neurons": agreement.first_distinct(top, settings.n_tokens),
        "random neurons": agreement.first_distinct(random, settings.n_tokens),
        "image prompts": agreement.first_distinct(nearest_to_image_prompts(context).tokens.tolist(), settings.n_tokens),
        "random tokens": random_tokens(context, settings.n_tokens),
        "caption": picture.caption_ids,
    }


def speaking(table: pd.DataFrame, count: int) -> Sequence[list[int]]:
    """Tokens of a table's best interpretable neurons; of its best neurons if none is interpretable."""
    chosen = table[table["interpretable"]].head(count)
    return [list(ids) for ids in (chosen if len(chosen) else table.head(count))["token_ids"]]


def _neurons(picture: PictureState, index: int) -> Iterator[Row]:
    wanted = first_words([picture.nouns[index].name])
    for rank, neuron in enumerate(picture.top_words[index].itertuples()):
        row, col = picture.cell(neuron.pos)
        yield {
            **picture.about(picture.nouns[index]),
            "rank": rank,
            "layer": int(neuron.layer),
            "neuron": int(neuron.neuron),
            "attribution": float(neuron.attribution),
            "row": row,
            "col": col,
            "tokens": list(neuron.tokens),
            "interpretable": bool(neuron.interpretable),
            "says_noun": not wanted.isdisjoint(map(said, neuron.tokens)),
        }


def _groups(picture: PictureState, index: int) -> Iterator[Row]:
    for kind, table in (("top", picture.top_words[index]), ("random", picture.random_words[index])):
        yield {
            **picture.about(picture.nouns[index]),
            "neurons": kind,
            "n": len(table),
            "interpretable": float(table["interpretable"].mean()),
            "says_noun": _share_saying(table, {picture.nouns[index].name}),
            "says_human_noun": _share_saying(table, set(picture.human_nouns)),
        }


def _share_saying(table: pd.DataFrame, names: set[str]) -> float:
    wanted = first_words(names)
    return sum(not wanted.isdisjoint(map(said, tokens)) for tokens in table["tokens"]) / len(table)
