"""Effects under controls, and which of them are artefacts.

An effect is there if its 95 % bootstrap interval over pictures lies on the expected side of zero and its mean is at
least as large as `SMALLEST`. It is an artefact if it is there with the picture and under a control as well, which keeps
at least half of it. What is absent with the picture itself cannot be kept.
"""

from dataclasses import dataclass

import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.statistics import ENOUGH, in_words, interval_table, is_above, paired_table, too_few

ITSELF = "picture"
KEEPS_CONTENT = ("shuffled positions",)
"""Says whether the place matters; what the picture shows is still there, so no effect is an artefact of it."""
KEPT_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is re-measured under each control."""

    what: str
    expected: bool | None
    """Whether it is positive where the picture is at work; None for a measure that has no zero to compare with."""
    smallest: float = 0.0
    """Smaller means are practically zero."""


EFFECTS = {
    "says the noun": Effect(
        what="share of found neurons that say the noun, above random neurons of the same layers",
        expected=True,
        smallest=0.01,
    ),
    "ablation": Effect(
        what="relative change of the noun's probability without the found neurons, below that without random ones",
        expected=False,
        smallest=0.05,
    ),
    "caption": Effect(what="share of captions that say the noun", expected=True, smallest=0.05),
    "log probability": Effect(what="natural logarithm of the noun's probability", expected=None),
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
    described = "; ".join(f"{name}: {effect.what}" for name, effect in EFFECTS.items())
    zero = ", ".join(f"{effect.smallest:g} ({name})" for name, effect in EFFECTS.items() if effect.smallest)
    return {
        "effects": Summary(
            frame=means,
            title="Effects under controls",
            caption=(
                f"{described[:1].upper()}{described[1:]}. Mean over {n} pictures (first noun of each caption), 95 % "
                f"bootstrap intervals."
            ),
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
                f"kept: the control's mean as a share of the picture's, where the picture has the effect. An effect "
                f"is absent if its interval holds zero or its mean is smaller than {zero}. An artefact is there under "
                f"a control as well, which keeps at least half; shuffled positions keep what the picture shows and "
                f"make none."
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
    rows = means.set_index(["effect", "condition"])
    parts = []
    for condition in [name for name in long["condition"].unique() if name != ITSELF]:
        paired = paired_table(long, "value", pair="condition", first=ITSELF, second=condition, by=["effect"], seed=seed)
        kept = [_kept(effect, rows.loc[(effect, ITSELF)], rows.loc[(effect, condition)]) for effect in paired["effect"]]
        still = [is_there(effect, rows.loc[(effect, condition)]) for effect in paired["effect"]]
        enough = [share >= KEPT_SHARE and condition not in KEEPS_CONTENT for share in kept]
        artefact = [bool(a and b) for a, b in zip(still, enough, strict=True)]
        parts.append(paired.assign(condition=condition, kept=kept, artefact=artefact))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True)[COLUMNS]


COLUMNS = ["effect", "condition", "mean", "low", "high", "p", "n", "kept", "artefact"]


def _kept(effect: str, itself: pd.Series, control: pd.Series) -> float:
    """The control's share of an effect, NaN where the picture itself does not have it."""
    return float(control["mean"] / itself["mean"]) if is_there(effect, itself) else float("nan")


def is_there(effect: str, row: pd.Series) -> bool:
    """Whether an effect can be told from zero, has the expected sign and is not practically zero."""
    about = EFFECTS[effect]
    if about.expected is None or row["n"] < ENOUGH or abs(row["mean"]) < about.smallest:
        return False
    # A share that is the same in every picture has an interval of no width.
    return is_above(row) is about.expected


def _verdict(differences: pd.DataFrame, means: pd.DataFrame) -> str:
    itself = means[means["condition"] == ITSELF].set_index("effect")
    n = int(itself["n"].max()) if len(itself) else 0
    if n < ENOUGH:
        return too_few(n)
    said = [
        _sentence(effect, itself.loc[effect], differences[differences["effect"] == effect])
        for effect, about in EFFECTS.items()
        if about.expected is not None and effect in itself.index
    ]
    said.sort(key=lambda sentence: not sentence.startswith("ARTEFACT"))
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]} (n = {n} pictures)."


def _sentence(effect: str, row: pd.Series, differences: pd.DataFrame) -> str:
    """What can be said of one effect: absent, reversed, kept by controls, or not."""
    own, about = in_words(row), EFFECTS[effect]
    if not is_there(effect, row):
        beyond = is_above(row)
        why = "not distinguishable from zero" if beyond is None else f"smaller than {about.smallest:g}"
        if beyond is (not about.expected) and abs(row["mean"]) >= about.smallest:
            return f"the effect '{effect}' is REVERSED with the picture itself ({own}): there is nothing to keep"
        return f"the effect '{effect}' is ABSENT with the picture itself ({own}, {why}): there is nothing to keep"
    controls = differences[~differences["condition"].isin(KEEPS_CONTENT)]
    kept = controls[controls["artefact"].astype(bool)]
    if len(kept):
        named = ", ".join(f"{control.condition} ({100 * control.kept:.0f} %)" for control in kept.itertuples())
        return f"ARTEFACT: the effect '{effect}' ({own}) is kept by half or more under {named}"
    if not len(controls):
        return f"the effect '{effect}' ({own}) was put to no control"
    return f"the effect '{effect}' ({own}) is no artefact: less than half of it is left under every control"
