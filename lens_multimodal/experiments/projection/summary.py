"""Decoded image prompts over all pictures, and whether they are words about the picture."""

import pandas as pd

from lens_multimodal.experiments.discovery.summary import agreement_summary
from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.statistics import ENOUGH, in_words, interval_table, is_above, paired_table, too_few

HITS = {
    "human_noun": "a noun of people's captions",
    "caption_noun": "a noun of the model's caption",
    "shown_noun": "the object that covers the position",
}

WAYS = {"embedding": ", nearest embedding", "unembedding": ", unembedding", "drawn": ""}
"""How a source was read; random tokens are drawn, not read."""


def summarise(rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """`positions`: how often image positions decode into a noun; `agreement` with the picture."""
    found = {}
    if len(rows["positions"]):
        found["positions"] = _positions(rows["positions"], seed)
    if len(rows["agreement"]):
        found["agreement"] = agreement_summary(
            rows["agreement"], seed=seed, verdict=_agreement_verdict(rows["agreement"], seed)
        )
    return found


def _positions(positions: pd.DataFrame, seed: int) -> Summary:
    labels = positions["source"] + positions["way"].map(WAYS)
    keys = positions[["image_id", "source", "way"]].assign(tokens=labels)
    long = pd.concat(
        [
            keys.assign(read_as=label, value=positions[column].astype(float)).dropna(subset="value")
            for column, label in HITS.items()
        ]
    )
    n = positions["image_id"].nunique()
    return Summary(
        frame=interval_table(long, "value", by=["read_as", "tokens"], seed=seed),
        title="Image positions that decode into a noun",
        caption=(
            f"Share of a picture's image positions with a noun among their ten nearest tokens (by cosine to the input "
            f"embeddings as in the paper, or through final norm and unembedding), against ten random tokens for each "
            f"position and a projection of random weights; mean over {n} pictures, 95 % bootstrap intervals over "
            f"pictures. The third kind counts only positions that an object covers."
        ),
        n_pictures=n,
        verdict=_verdict(long[long["way"] != "unembedding"], seed),
        drawing=Drawing(kind="bars", x="read_as", series="tokens", x_title="", y_title="share of image positions"),
    )


def _verdict(long: pd.DataFrame, seed: int) -> str:
    """Image prompts against random tokens, on the nouns that the model goes on to say."""
    own = long[long["read_as"] == HITS["caption_noun"]]
    paired = paired_table(own, "value", pair="source", first="image prompts", second="random tokens", seed=seed)
    if not len(paired) or paired["n"].iloc[0] < ENOUGH:
        return too_few(int(paired["n"].sum()))
    row = paired.iloc[0]
    means = interval_table(own, "value", by=["source"], seed=seed).set_index("source")
    prompts, random = (
        in_words(means.loc[source], percent=True, digits=3) for source in ("image prompts", "random tokens")
    )
    said = "DO" if is_above(row) else "DO NOT"
    more = "more often than random tokens do" if said == "DO" else "more often than random tokens"
    return (
        f"Image prompts {said} decode into the caption's nouns here {more}: {prompts} of the image positions have one "
        f"among their ten nearest tokens, {random} with random tokens (n = {int(row['n'])} pictures)."
    )


def _agreement_verdict(agreement: pd.DataFrame, seed: int) -> str:
    paired = paired_table(agreement, "f1", pair="source", first="image prompts", second="random tokens", seed=seed)
    if not len(paired) or paired["n"].iloc[0] < ENOUGH:
        return too_few(int(paired["n"].sum()))
    row = paired.iloc[0]
    said = {
        True: "agree MORE with people's nouns than random tokens do",
        False: "agree LESS with people's nouns than random tokens do",
        None: "do NOT agree distinguishably more with people's nouns than random tokens do",
    }[is_above(row)]
    difference = in_words(row, digits=3)
    return (
        f"By closeness of embeddings decoded image prompts {said}: difference of F1 {difference} (n = {int(row['n'])} "
        f"pictures)."
    )
