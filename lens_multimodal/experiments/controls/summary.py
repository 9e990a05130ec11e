"""Effects under controls, and which of them are artefacts.

An effect is called an artefact of a control if it is there under the control as well (its 95 % bootstrap interval over
pictures does not hold zero) and the control keeps at least half of it.
"""

import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.statistics import in_words, interval_table, is_above, paired_table

ITSELF = "picture"
KEEPS_CONTENT = ("shuffled positions",)
"""Says whether the place matters; what the picture shows is still there, so no effect is an artefact of it."""
KEPT_SHARE = 0.5

EFFECTS = {
    "says the noun": "share of found neurons that say the noun, above random neurons of the same layers",
    "ablation": "relative change of the noun's probability without the found neurons, below that without random ones",
    "log probability": "natural logarithm of the noun's probability",
    "caption": "share of captions that say the noun",
}


def summarise(rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """`effects` under each condition, and `differences` to the picture itself with verdicts."""
    conditions = rows["conditions"]
    if not len(conditions):
        return {}
    long = _effects(conditions)
    means = interval_table(long, "value", by=["effect", "condition"], seed=seed)
    differences = _differences(long, means, seed)
    n = conditions["image_id"].nunique()
    described = "; ".join(f"{name}: {what}" for name, what in EFFECTS.items())
    return {
        "effects": Summary(
            frame=means,
            title="Effects under controls",
            caption=f"{described}. Mean over {n} pictures (first noun of each caption), 95 % bootstrap intervals.",
            n_pictures=n,
            drawing=Drawing(
                kind="bars", x="condition", series="condition", panels="effect", x_title="", y_title="effect"
            ),
        ),
        "differences": Summary(
            frame=differences,
            title="What is left under controls",
            caption=(
                f"Effect with the picture itself minus effect under the control, within pictures, over {n} pictures; "
                f"kept: the control's mean as a share of the picture's. An artefact keeps at least half, and "
                f"what it keeps is not zero; shuffled positions keep the picture's content and make none."
            ),
            n_pictures=n,
            verdict=_verdict(differences, means),
        ),
        "overlap": Summary(
            frame=interval_table(conditions, "overlap", by=["condition"], seed=seed),
            title="The same neurons under controls",
            caption=(
                f"Share of the neurons found under a condition that are among those found for the picture itself; over "
                f"{n} pictures."
            ),
            n_pictures=n,
        ),
    }


def _effects(conditions: pd.DataFrame) -> pd.DataFrame:
    keys = conditions[["image_id", "condition"]]
    values = {
        "says the noun": conditions["says_noun_top"] - conditions["says_noun_random"],
        "ablation": conditions["relative_change_top"] - conditions["relative_change_random"],
        "log probability": conditions["log_probability"],
        "caption": conditions["caption_says_noun"].astype(float),
    }
    long = pd.concat([keys.assign(effect=name, value=column) for name, column in values.items()])
    return long.dropna(subset="value").reset_index(drop=True)


def _differences(long: pd.DataFrame, means: pd.DataFrame, seed: int) -> pd.DataFrame:
    mean_of = means.set_index(["effect", "condition"])["mean"]
    parts = []
    for condition in [name for name in long["condition"].unique() if name != ITSELF]:
        paired = paired_table(long, "value", pair="condition", first=ITSELF, second=condition, by=["effect"], seed=seed)
        kept = [mean_of[effect, condition] / mean_of[effect, ITSELF] for effect in paired["effect"]]
        parts.append(paired.assign(condition=condition, kept=kept))
    table = pd.concat(parts, ignore_index=True)
    about_content = (table["effect"] != "log probability") & ~table["condition"].isin(KEEPS_CONTENT)
    there = [_is_there(means, row.effect, row.condition) for row in table.itertuples()]
    table["artefact"] = about_content & (table["kept"] >= KEPT_SHARE) & pd.Series(there, index=table.index)
    return table[["effect", "condition", "mean", "low", "high", "p", "n", "kept", "artefact"]]


def _is_there(means: pd.DataFrame, effect: str, condition: str) -> bool:
    """Whether an effect under a condition can be told from zero."""
    row = means[(means["effect"] == effect) & (means["condition"] == condition)].iloc[0]
    return is_above(row["low"], row["high"]) is not None


def _verdict(differences: pd.DataFrame, means: pd.DataFrame) -> str:
    itself = means[means["condition"] == ITSELF].set_index("effect")
    if itself["n"].max() < 2:
        return ""
    said = []
    for effect in ("says the noun", "ablation"):
        if effect not in itself.index:
            continue
        row = itself.loc[effect]
        own = in_words(row["mean"], row["low"], row["high"])
        if is_above(row["low"], row["high"]) is not (effect == "says the noun"):
            said.append(f"the effect '{effect}' is not there to begin with ({own})")
            continue
        kept = differences[(differences["effect"] == effect) & differences["artefact"]]["condition"].tolist()
        if kept:
            said.append(f"ARTEFACT: the effect '{effect}' ({own}) is kept under {', '.join(kept)}")
        else:
            said.append(f"the effect '{effect}' ({own}) survives no control")
    said.sort(key=lambda sentence: not sentence.startswith("ARTEFACT"))
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]} (n = {int(itself['n'].max())} pictures)." if said else ""
