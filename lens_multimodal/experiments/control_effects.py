"""What the controls test: which effects need the picture, and which remain without it.

Ablating a noun's own top neurons lowers its probability relative to what it was under any picture, since the search
finds what supports the noun there. So the relative change cannot tell the picture from a control. The measure is the
probability that is lost, in absolute terms: it stays the same if the model says the noun whatever it sees, and goes to
zero if the picture brings the noun.

An effect is there if it is established on the expected side of zero (`stats.is_above`) and not practically zero
(`Effect.smallest`). It is an artefact if more than half of it is established to remain under a control, and it needs
the picture if less than half is established to remain under every control. An effect that is absent with the picture
itself cannot be kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.summaries import (
    NOT_ESTABLISHED,
    OPPOSITE,
    YES,
    Evidence,
    Pair,
    Verdict,
    too_few,
)

ITSELF = "picture"
KEEPS_CONTENT = ("shuffled positions",)
"""Conditions that keep the picture's content and test only its positions; an effect that remains is not an artefact."""
KEPT_SHARE = 0.5

ARTEFACT = "also without the picture"
"""The answer of an effect that a control keeps."""

MORE, LESS, OPEN = "more than half", "less than half", "not established"
"""How much of an effect remains under a control."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is measured again under each control."""

    what: str
    unit: str = ""
    name: str = ""
    """As the subject of a sentence."""
    claim: str = ""
    """What is true if the effect is present with the picture and under no control; "" for a measure without verdict."""
    smallest: float = 0.0
    """Smaller means count as zero."""


EFFECTS = {
    "writes the noun": Effect(
        what="share of found neurons that write the noun, minus that of random neurons of the same layers",
        unit="share that writes the noun, minus random",
        name="the lead of found over random neurons that write the noun",
        claim="Neurons that write the noun are found only with the picture.",
        smallest=0.01,
    ),
    "ablation": Effect(
        what="probability that the noun loses without the found neurons, minus the loss without random ones",
        unit="probability lost, minus random",
        name="the probability lost without the found neurons, beyond that lost without random ones,",
        claim="The probability that the found neurons give to the noun comes from the picture.",
        smallest=0.01,
    ),
    "caption": Effect(
        what="share of captions that say the noun",
        unit="share of captions",
        name="the share of captions that say the noun",
        claim="The caption's noun comes from the picture.",
        smallest=0.05,
    ),
    "log probability": Effect(what="natural logarithm of the noun's probability"),
}


def measured_effects(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every effect of every picture under every condition: `image_id`, `condition`, `effect`, `value`."""
    table = tables["conditions"]
    values = {
        "writes the noun": table["says_noun_top"] - table["says_noun_random"],
        "ablation": table["probability"] * (table["relative_change_random"] - table["relative_change_top"]),
        "caption": table["caption_says_noun"],
        "log probability": table["log_probability"],
    }
    long = stats.by_measure(
        table.assign(**values), dict(zip(values, values, strict=True)), keys=["condition"], name="effect"
    )
    return long.dropna(subset="value").reset_index(drop=True)


def remaining(long: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The effect with the picture minus that under each control, and how much of it the control keeps."""
    found = []
    for effect, rows in long.groupby("effect", sort=False):
        itself = _itself(rows, seed)
        present = itself is not None and is_there(str(effect), itself)
        for condition, tested in _against_half(rows, seed).items():
            pair = Pair(column="condition", first=ITSELF, second=condition)
            row = pair.differences(rows, seed=seed).iloc[0]
            under = rows.loc[rows["condition"] == condition].groupby("image_id")["value"].mean().mean()
            kept = float(under / itself["mean"]) if present and itself is not None else float("nan")
            found.append({"effect": effect, "condition": condition, **row, "kept": kept})
            found[-1]["remains"] = tested if present else None
    columns = ["effect", "condition", "mean", "low", "high", "p", "n", "kept", "remains"]
    return pd.DataFrame(found, columns=columns)


def _itself(rows: pd.DataFrame, seed: int) -> pd.Series | None:
    """The effect with the picture itself."""
    own = stats.table_against(rows[rows["condition"] == ITSELF], "value", seed=seed)
    return own.iloc[0] if len(own) else None


def _against_half(rows: pd.DataFrame, seed: int) -> dict[str, str]:
    """For each control whether more or less than half of the effect remains, corrected for the number of controls."""
    half = rows.assign(value=rows["value"].where(rows["condition"] != ITSELF, KEPT_SHARE * rows["value"]))
    tested = {}
    for condition in rows.loc[rows["condition"] != ITSELF, "condition"].unique():
        paired = Pair(column="condition", first=condition, second=ITSELF).differences(half, seed=seed)
        if len(paired):
            tested[str(condition)] = paired.iloc[0]
    decisive = [name for name in tested if name not in KEEPS_CONTENT]
    corrected = dict(zip(decisive, stats.holm([float(tested[name]["p"]) for name in decisive]), strict=True))
    said = {True: MORE, False: LESS, None: OPEN}
    return {name: said[stats.is_above(row, p=corrected.get(name))] for name, row in tested.items()}


def is_there(effect: str, tested: pd.Series) -> bool:
    """Whether an effect is established to be positive and is not practically zero."""
    about = EFFECTS[effect]
    return bool(about.claim and stats.is_above(tested) is True and tested["mean"] >= about.smallest)


def control_verdict(evidence: Evidence) -> Verdict:
    """All effects in sentences; the verdict on each is in `parts`."""
    rows = evidence.rows
    parts = {
        name: _judged(name, rows[rows["effect"] == name], evidence)
        for name, about in EFFECTS.items()
        if about.claim and ((rows["effect"] == name) & (rows["condition"] == ITSELF)).any()
    }
    texts = dict.fromkeys(f"{part.text[:1].upper()}{part.text[1:]}" for part in parts.values())
    return Verdict(text=" ".join(texts), parts=parts)


def _judged(effect: str, rows: pd.DataFrame, evidence: Evidence) -> Verdict:
    """What is established about one effect: absent, reversed, kept by controls, or not."""
    controls = evidence.frame[evidence.frame["effect"] == effect]
    controls = controls[~controls["condition"].isin(KEEPS_CONTENT)]
    itself = _itself(rows, evidence.seed)
    assert itself is not None
    n = int(min([itself["n"], *controls["n"]]))
    tests = max(1, len(controls))
    if n < stats.needed(tests):
        return too_few(n, tests=tests)
    means = stats.interval_table(rows, "value", by=["condition"], seed=evidence.seed)
    text, answer = _answer(effect, itself, controls)
    return Verdict(
        text=f"{text} (n = {n} pictures).",
        answer=answer,
        compared=means.rename(columns={"condition": "compared"}).assign(control=means["condition"] != ITSELF),
        unit=EFFECTS[effect].unit,
    )


def _answer(effect: str, itself: pd.Series, controls: pd.DataFrame) -> tuple[str, str]:
    about = EFFECTS[effect]
    own = f"with the picture, {about.name} is {stats.in_words(itself)}"
    if not is_there(effect, itself):
        above = stats.is_above(itself)
        if above is False and itself["mean"] <= -about.smallest:
            return f"{own}: the effect is REVERSED, so no control can keep it", OPPOSITE
        why = "not established to be above zero" if above is None else f"smaller than {about.smallest:g}"
        return f"{own}: the effect is ABSENT ({why}), so no control can keep it", NOT_ESTABLISHED
    if not len(controls):
        return f"{own}; no control was run", NOT_ESTABLISHED
    kept, unclear = (
        ", ".join(f"{row.condition} ({100 * row.kept:.0f} %)" for row in which.itertuples())
        for which in (controls[controls["remains"] == MORE], controls[controls["remains"] == OPEN])
    )
    if kept:
        return f"ARTEFACT: {own}, and more than half of it remains under {kept}", ARTEFACT
    if unclear:
        return f"{own}; whether more than half of it remains is NOT established under {unclear}", NOT_ESTABLISHED
    most = controls.loc[controls["kept"].idxmax()]
    share = f"{100 * max(0.0, most['kept']):.0f} % ({most['condition']})"
    return f"{own}; less than half of it remains under every control, at most {share}", YES
