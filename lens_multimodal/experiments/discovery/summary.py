"""Found neurons over all pictures: where they lie, how many there are, what they say."""

import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.statistics import ENOUGH, in_words, interval_table, is_above, paired_table, too_few

MEASURES = {
    "human_hits": "tokens that are people's nouns",
    "human_found": "people's nouns found",
    "caption_hits": "tokens that are the caption's nouns",
    "caption_found": "the caption's nouns found",
    "f1": "embedding match with people's nouns (F1)",
    "bertscore": "BERTScore with people's captions",
    "clipscore": "CLIPScore with the picture",
}
"""Columns of the agreement tables and how they are called."""

THIRDS = ("first", "middle", "last")

SHARES = {
    "interpretable": "interpretable",
    "says_noun": "say the noun",
    "says_human_noun": "say a noun of people's captions",
}


def summarise(rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """`captions`; `words`: shares of neurons that speak; `layers`; `distinct`; `agreement` with the picture."""
    found = {}
    if len(rows["captions"]):
        found["captions"] = _captions(rows, seed)
    if len(rows["groups"]):
        found["words"] = _words(rows["groups"], seed)
    if len(rows["neurons"]):
        found["layers"] = _layers(rows["neurons"], int(rows["captions"]["n_layers"].max()), seed)
        found["distinct"] = _distinct(rows["neurons"])
    if len(rows["agreement"]):
        found["agreement"] = agreement_summary(rows["agreement"], seed=seed, verdict="")
    return found


def agreement_summary(agreement: pd.DataFrame, *, seed: int, verdict: str) -> Summary:
    """Every measure of agreement, for every source of tokens."""
    keys = agreement[["image_id", "source"]]
    long = pd.concat(
        [
            keys.assign(measure=label, value=agreement[column].astype(float))
            for column, label in MEASURES.items()
            if column in agreement and agreement[column].notna().any()
        ]
    )
    absent = [label for column, label in MEASURES.items() if column not in agreement or agreement[column].isna().all()]
    n = agreement["image_id"].nunique()
    note = f" Not available here: {', '.join(absent)} (give the folder of a model in the settings)." if absent else ""
    frame = interval_table(long, "value", by=["measure", "source"], seed=seed)
    return Summary(
        frame=frame,
        title="Agreement of decoded words with the picture",
        caption=(
            f"Each source says at most the same number of different tokens (the caption: its own). Mean over {n} "
            f"pictures with 95 % bootstrap intervals over pictures.{note}"
        ),
        n_pictures=n,
        verdict=verdict,
        paper_keys=tuple(_paper_key(row.measure, row.source) for row in frame.itertuples()),
        drawing=Drawing(
            kind="bars", x="source", series="source", panels="measure", x_title="", y_title="share or similarity"
        ),
    )


def _words(groups: pd.DataFrame, seed: int) -> Summary:
    keys = groups[["image_id", "neurons"]]
    long = pd.concat([keys.assign(share=label, value=groups[column]) for column, label in SHARES.items()])
    frame = interval_table(long, "value", by=["share", "neurons"], seed=seed)
    paired = paired_table(long, "value", pair="neurons", first="top", second="random", by=["share"], seed=seed)
    frame = frame.merge(
        paired[["share", "p"]].rename(columns={"p": "p top against random"}), on="share", how="left", sort=False
    )
    n = groups["image_id"].nunique()
    return Summary(
        frame=frame,
        title="Neurons that speak",
        caption=(
            f"Share of the top neurons by attribution, and of as many random neurons of the same layers, that are "
            f"interpretable (7 of 10 decoded tokens are English words) or have the noun among their ten tokens; over "
            f"{n} pictures."
        ),
        n_pictures=n,
        verdict=_verdict(frame, paired),
        paper_keys=tuple(
            "discovery.interpretable_share" if (row.share, row.neurons) == ("interpretable", "top") else None
            for row in frame.itertuples()
        ),
        drawing=Drawing(kind="bars", x="share", series="neurons", x_title="", y_title="share of neurons"),
    )


def _verdict(frame: pd.DataFrame, paired: pd.DataFrame) -> str:
    label = SHARES["says_noun"]
    difference = paired[paired["share"] == label]
    if not len(difference) or difference["n"].iloc[0] < ENOUGH:
        return too_few(int(difference["n"].sum()))
    row = difference.iloc[0]
    means = frame[frame["share"] == label].set_index("neurons")
    top, random = (in_words(means.loc[k], percent=True, digits=3) for k in ("top", "random"))
    said = {
        True: "write the noun they were found for MORE often than",
        False: "write the noun they were found for LESS often than",
        None: "do NOT write the noun they were found for distinguishably more often than",
    }
    compared = said[is_above(row)]
    return (
        f"The neurons found by attribution {compared} random neurons of the same layers: {top} of the found against "
        f"{random} of the random (n = {int(row['n'])} pictures)."
    )


def _layers(neurons: pd.DataFrame, n_layers: int, seed: int) -> Summary:
    """Share of a picture's found neurons in each layer of the model, so that every picture weighs the same."""
    parts = []
    for kind, table in (("top", neurons), ("top and interpretable", neurons[neurons["interpretable"]])):
        if len(table):
            long = _layer_shares(table, n_layers).reset_index().melt("image_id", var_name="layer", value_name="value")
            parts.append(long.assign(neurons=kind, layer=long["layer"].astype(int)))
    n = neurons["image_id"].nunique()
    return Summary(
        frame=interval_table(pd.concat(parts), "value", by=["neurons", "layer"], seed=seed),
        title="Where in depth the found neurons lie",
        caption=(
            f"Share of a picture's found neurons in each of the {n_layers} layers; mean over {n} pictures, 95 % "
            f"bootstrap intervals."
        ),
        n_pictures=n,
        verdict=_layers_verdict(neurons, n_layers, seed),
        drawing=Drawing(
            kind="bars", x="layer", series="neurons", x_title="layer", y_title="share of a picture's neurons"
        ),
    )


def _layer_shares(neurons: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    shares = pd.crosstab(neurons["image_id"], neurons["layer"], normalize="index")
    return shares.reindex(columns=range(n_layers), fill_value=0.0)


def _layers_verdict(neurons: pd.DataFrame, n_layers: int, seed: int) -> str:
    """The third of the layers that holds most of the found neurons, against an even spread."""
    n = neurons["image_id"].nunique()
    if n < ENOUGH or n_layers < len(THIRDS):
        return too_few(n) if n < ENOUGH else ""
    third_of = [layer * len(THIRDS) // n_layers for layer in range(n_layers)]
    long = _layer_shares(neurons, n_layers).reset_index().melt("image_id", var_name="layer", value_name="value")
    long["third"] = [third_of[layer] for layer in long["layer"]]
    of_thirds = long.groupby(["third", "image_id"], as_index=False)["value"].sum()
    table = interval_table(of_thirds, "value", by=["third"], seed=seed)
    most = table.loc[table["mean"].idxmax()]
    even = third_of.count(most["third"]) / n_layers
    above = is_above(most, even)
    said = "concentrate in" if above else "do NOT concentrate in any third of the layers; most are in"
    return (
        f"Found neurons {said} the {THIRDS[int(most['third'])]} third of the {n_layers} layers: "
        f"{in_words(most, percent=True)} of a picture's, an even spread would put "
        f"{100 * even:.0f} % there (n = {n} pictures)."
    )


def _distinct(neurons: pd.DataFrame) -> Summary:
    rows = []
    for kind, table in (("top", neurons), ("top and interpretable", neurons[neurons["interpretable"]])):
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
    n = neurons["image_id"].nunique()
    return Summary(
        frame=pd.DataFrame(rows),
        title="Distinct neurons over all pictures",
        caption=f"Neurons found for any noun of any of {n} pictures, each counted once.",
        n_pictures=n,
        paper_keys=(None, "discovery.distinct"),
    )


def _captions(rows: dict[str, pd.DataFrame], seed: int) -> Summary:
    captions, nouns = rows["captions"], rows["nouns"]
    parts = [captions[["image_id"]].assign(share="captions that say something in the picture", value=captions["right"])]
    if len(nouns):
        for column, label in (
            ("in_picture", "nouns that are in the picture"),
            ("in_human_captions", "nouns that people say"),
        ):
            parts.append(nouns[["image_id"]].assign(share=label, value=nouns[column]))
        parts.append(nouns[["image_id"]].assign(share="nouns of more than one token", value=nouns["n_tokens"] > 1))
    long = pd.concat(parts)
    n = len(captions)
    frame = interval_table(long.assign(value=long["value"].astype(float)), "value", by=["share"], seed=seed)
    return Summary(
        frame=frame,
        title="What the model says",
        caption=(
            f"Greedy captions of {n} pictures and the nouns found in them; in the picture means that the noun's "
            f"category is annotated there. The experiments explain what the model says, right or wrong."
        ),
        n_pictures=n,
        verdict=_captions_verdict(frame.iloc[0]),
    )


def _captions_verdict(row: pd.Series) -> str:
    """How much of what is explained is right."""
    if row["n"] < ENOUGH:
        return too_few(int(row["n"]))
    above = is_above(row, 0.5)
    said = {True: "MOSTLY name", False: "MOSTLY DO NOT name", None: "name about as often as not"}[above]
    wrong = ": what the experiments explain is then mostly not what the picture shows"
    share = in_words(row, percent=True)
    return (
        f"Captions {said} something that is in the picture: {share} of them do (n = {int(row['n'])} pictures)"
        f"{wrong if above is False else ''}."
    )


def _paper_key(measure: str, source: str) -> str | None:
    score = {MEASURES["bertscore"]: "bertscore", MEASURES["clipscore"]: "clipscore"}.get(measure)
    short = {"random tokens": "random", "image prompts": "image_prompts", "neurons": "neurons", "caption": "caption"}
    return f"projection.{score}.{short[source]}" if score and source in short else None
