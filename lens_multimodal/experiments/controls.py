"""What survives without the picture, or without training? (beyond the paper)

The neurons for the first noun of a caption are searched for again under controls: a blank picture, the picture's
vectors at shuffled positions, another picture, a projection or an encoder with random weights, and an untrained
language model. Measured under each: whether the neurons found write the noun, how much probability their ablation takes
from the noun, and whether the caption says the noun.

What is concluded from them, and why, is in `control_effects`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal.experiments.control_effects import EFFECTS, ITSELF, control_verdict, measured_effects, remaining
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared.conditions import Conditions, measured, with_captions
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.picture_state import pairs_of
from lens_multimodal.experiments.shared.random_parts import (
    blank,
    partner_picture,
    random_encoder,
    through_random_projection,
    untrained_lens,
    vectors_of,
)
from lens_multimodal.experiments.shared.summaries import Drawing, SummaryTable
from lens_multimodal.seeds import generator_for

UNTRAINED = "untrained language model"


@dataclass(frozen=True, kw_only=True)
class ControlsSettings:
    """Which controls are run."""

    untrained: bool = True
    """The untrained language model needs as much memory as the trained one."""


# --- summaries over all pictures ------------------------------------------------------------------------------


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
    rows=measured_effects,
    by=("effect", "condition"),
    drawing=Drawing(kind="bars", x="condition", series="condition", panels="effect", y_title="effect"),
)

LEFT = SummaryTable(
    name="differences",
    table="conditions",
    title="What remains under controls",
    caption=(
        "Effect with the picture itself minus effect under the control, within pictures, over {n} pictures; kept: the "
        "control's mean as a share of the picture's, where the picture has the effect; remains: whether this share is "
        "established to be more or less than half (sign flips within pictures, Holm's correction over the controls). "
        f"An effect is absent if it is not established to be positive or its mean is smaller than {_SMALLEST}. It is "
        "an artefact if more than half of it remains under a control. Shuffled positions keep the content and make no "
        "artefact. Ablation compares the probability lost, not its relative change: ablating a noun's own top "
        "neurons lowers it relatively under any picture, so that the relative change could come out only one way."
    ),
    rows=measured_effects,
    frame=remaining,
    verdict=control_verdict,
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
    trained = Conditions.of(picture.lens, picture, noun, _vectors(context))
    rows = measured(context, trained, purpose="controls", reference=reference)
    for row in with_captions(context, trained, rows):
        yield {**about, **row}
    if context.settings.untrained:
        untrained = Conditions.of(untrained_lens(context), picture, noun, {UNTRAINED: picture.vectors.detach()})
        for row in measured(context, untrained, purpose="controls untrained", reference=reference):
            yield {**about, **row, "caption": None, "caption_says_noun": None}


def _vectors(context: Context[ControlsSettings]) -> dict[str, Float[Tensor, "pos d_model"]]:
    """Image vectors of the picture itself and of every control; without a partner picture, that control is missing."""
    picture, lens = context.picture, context.picture.lens
    own = picture.vectors.detach()
    order = torch.randperm(len(own), generator=generator_for(picture.seed, "controls", picture.scene.id, "shuffled"))
    other = partner_picture(context.scenes, picture.scene, picture.seed)
    shown = [blank(picture.image), *([] if other is None else [other])]
    of_blank, *of_other = vectors_of(lens.images, shown, batch_size=picture.batch_size)
    return {
        ITSELF: own,
        "blank picture": of_blank,
        "shuffled positions": own[order.to(own.device)],
        **dict(zip(["another picture"], of_other, strict=False)),
        "random projection": through_random_projection(context),
        "random encoder": next(vectors_of(random_encoder(context), [picture.image], batch_size=1)),
    }
