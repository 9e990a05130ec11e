"""What survives without the picture, or without training? Effects that do are artefacts (beyond the paper).

The neurons for the first noun of a caption are searched for again under controls: a blank picture, the picture's
vectors at shuffled positions, another picture, a projection or an encoder with random weights, and an untrained
language model. Measured under each: whether the neurons found say the noun, how much of the noun's probability their
ablation removes, and how probable the noun is.

An effect is there if its 95 % bootstrap interval over pictures lies on the expected side of zero and its mean is not
practically zero (`Effect.smallest`). It is an artefact if it is there with the picture and also under a control that
keeps at least half of it. An effect that is absent with the picture itself cannot be kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.conditions import Conditions, measured, with_captions
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.picture_state import pairs_of
from lens_multimodal.experiments.shared.random_parts import (
    blank,
    partner_picture,
    random_encoder,
    random_projection,
    untrained_lens,
    vectors_of,
)
from lens_multimodal.experiments.shared.summaries import Drawing, Evidence, Pair, SummaryTable
from lens_multimodal.seeds import generator_for

ITSELF = "picture"
UNTRAINED = "untrained language model"
KEEPS_CONTENT = ("shuffled positions",)
"""Conditions that keep the picture's content and test its place alone; an effect that remains is not an artefact."""
KEPT_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class ControlsSettings:
    """Which controls are run."""

    untrained: bool = True
    """The untrained language model needs as much memory as the trained one."""


# --- summaries over all pictures ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is measured again under each control."""

    what: str
    expected: bool | None
    """Whether it is positive if the picture causes it; None for a measure that is not compared with zero."""
    smallest: float = 0.0
    """Smaller means count as zero."""


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


def _effects(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    table = tables["conditions"]
    values = {
        "says the noun": table["says_noun_top"] - table["says_noun_random"],
        "ablation": table["relative_change_top"] - table["relative_change_random"],
        "log probability": table["log_probability"],
        "caption": table["caption_says_noun"],
    }
    long = stats.by_measure(
        table.assign(**values), dict(zip(values, values, strict=True)), keys=["condition"], name="effect"
    )
    return long.dropna(subset="value").reset_index(drop=True)


def _means(long: pd.DataFrame, seed: int) -> pd.DataFrame:
    return stats.interval_table(long, "value", by=["effect", "condition"], seed=seed)


def _differences(long: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The effect with the picture minus that under each control, and whether the control keeps it."""
    rows = _means(long, seed).set_index(["effect", "condition"])
    parts = []
    for condition in [name for name in long["condition"].unique() if name != ITSELF]:
        pair = Pair(column="condition", first=ITSELF, second=condition)
        paired = pair.differences(long, by=("effect",), seed=seed)
        kept, artefact = [], []
        for effect in paired["effect"]:
            itself, control = rows.loc[(effect, ITSELF)], rows.loc[(effect, condition)]
            share = float(control["mean"] / itself["mean"]) if is_there(effect, itself) else float("nan")
            kept.append(share)
            artefact.append(is_there(effect, control) and share >= KEPT_SHARE and condition not in KEEPS_CONTENT)
        parts.append(paired.assign(condition=condition, kept=kept, artefact=artefact))
    columns = ["effect", "condition", "mean", "low", "high", "p", "n", "kept", "artefact"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def is_there(effect: str, row: pd.Series) -> bool:
    """Whether an effect differs from zero, has the expected sign and is not practically zero."""
    about = EFFECTS[effect]
    if about.expected is None or row["n"] < stats.ENOUGH or abs(row["mean"]) < about.smallest:
        return False
    # A share that is equal in all pictures has an interval of zero width.
    return stats.is_above(row) is about.expected


def _verdict(evidence: Evidence) -> str:
    means = _means(evidence.rows, evidence.seed)
    itself = means[means["condition"] == ITSELF].set_index("effect")
    n = int(itself["n"].max()) if len(itself) else 0
    if n < stats.ENOUGH:
        return stats.too_few(n)
    differences = evidence.frame
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
    own, about = stats.in_words(row), EFFECTS[effect]
    if not is_there(effect, row):
        beyond = stats.is_above(row)
        why = "not distinguishable from zero" if beyond is None else f"smaller than {about.smallest:g}"
        if beyond is (not about.expected) and abs(row["mean"]) >= about.smallest:
            return f"the effect '{effect}' is REVERSED with the picture itself ({own}): a control cannot keep it"
        return f"the effect '{effect}' is ABSENT with the picture itself ({own}, {why}): a control cannot keep it"
    controls = differences[~differences["condition"].isin(KEEPS_CONTENT)]
    kept = controls[controls["artefact"].astype(bool)]
    if len(kept):
        named = ", ".join(f"{control.condition} ({100 * control.kept:.0f} %)" for control in kept.itertuples())
        return f"ARTEFACT: the effect '{effect}' ({own}) keeps at least half of its size under {named}"
    if not len(controls):
        return f"the effect '{effect}' ({own}) was tested under no control"
    return f"the effect '{effect}' ({own}) is not an artefact: less than half of it remains under every control"


_DESCRIBED = "; ".join(f"{name}: {effect.what}" for name, effect in EFFECTS.items())
_SMALLEST = ", ".join(f"{effect.smallest:g} ({name})" for name, effect in EFFECTS.items() if effect.smallest)

UNDER_CONTROLS = SummaryTable(
    name="effects",
    table="conditions",
    title="Effects under controls",
    caption=(
        f"{_DESCRIBED[:1].upper()}{_DESCRIBED[1:]}. "
        "Mean over {n} pictures (first noun of each caption), 95 % bootstrap intervals."
    ),
    rows=_effects,
    by=("effect", "condition"),
    drawing=Drawing(kind="bars", x="condition", series="condition", panels="effect", y_title="effect"),
)

LEFT = SummaryTable(
    name="differences",
    table="conditions",
    title="What remains under controls",
    caption=(
        "Effect with the picture itself minus effect under the control, within pictures, over {n} pictures; kept: the "
        "control's mean as a share of the picture's, where the picture has the effect. An effect is absent if its "
        f"interval contains zero or its mean is smaller than {_SMALLEST}. It is an artefact if it is also there "
        "under a control that keeps at least half of it; shuffled positions keep the picture's content."
    ),
    rows=_effects,
    frame=_differences,
    verdict=_verdict,
)

OVERLAP = SummaryTable(
    name="overlap",
    table="conditions",
    title="The same neurons under controls",
    caption=(
        "Share of the neurons found under a condition that are among those found for the picture itself; over {n} "
        "pictures."
    ),
    value="overlap",
    by=("condition",),
)


# --- rows of one picture ---------------------------------------------------------------------------------------


class Controls(Experiment[ControlsSettings]):
    """A noun and its neurons without the picture, or without training."""

    name, version = "controls", 1
    question = "What survives without the picture, or without training?"
    tables = ("conditions",)
    summaries = (UNDER_CONTROLS, LEFT, OVERLAP)

    def rows(self, context: Context[ControlsSettings]) -> dict[str, pd.DataFrame]:
        return self.frames(conditions=_conditions(context) if context.picture.nouns else [])


def _conditions(context: Context[ControlsSettings]) -> Iterator[Row]:
    picture = context.picture
    noun = picture.nouns[0]
    about = {"image_id": picture.scene.id, "noun": noun.name, "in_picture": noun.in_picture}
    reference = set(pairs_of(picture.top[0]))
    trained = Conditions.of(context.lens, picture, noun, _vectors(context))
    rows = measured(context, trained, purpose="controls", reference=reference)
    for row in with_captions(context, trained, rows):
        yield {**about, **row}
    if context.settings.untrained:
        untrained = Conditions.of(untrained_lens(context), picture, noun, {UNTRAINED: picture.vectors.detach()})
        for row in measured(context, untrained, purpose="controls untrained", reference=reference):
            yield {**about, **row, "caption": None, "caption_says_noun": None}


def _vectors(context: Context[ControlsSettings]) -> dict[str, Float[Tensor, "pos d_model"]]:
    """Image vectors of the picture itself and of every control; without a partner picture, that control is missing."""
    picture, lens = context.picture, context.lens
    own = picture.vectors.detach()
    order = torch.randperm(len(own), generator=generator_for(context.seed, "controls", picture.scene.id, "shuffled"))
    other = partner_picture(context.scenes, picture.scene, context.seed)
    return {
        ITSELF: own,
        "blank picture": vectors_of(lens, blank(picture.image)),
        "shuffled positions": own[order.to(own.device)],
        **({"another picture": vectors_of(lens, other)} if other is not None else {}),
        "random projection": vectors_of(lens, picture.image, images=random_projection(context)),
        "random encoder": vectors_of(lens, picture.image, images=random_encoder(context)),
    }
