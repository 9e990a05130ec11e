"""Controls: effects that survive them are artefacts (beyond the paper).

The neurons of a picture's first noun are looked for again when nothing of the picture reaches the language model: a
blank picture, the picture's vectors at shuffled positions, another picture, a projection or an encoder of random
weights, and the picture before an untrained language model. Three effects are re-measured under each: found neurons
say the noun, ablating them takes the noun's probability away, and the noun is what the model expects.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal.data import Scene
from lens_multimodal.experiments.controls import summary
from lens_multimodal.experiments.controls.conditions import Conditions, as_pairs, measured
from lens_multimodal.experiments.controls.models import (
    blank,
    partner_picture,
    random_encoder,
    random_projection,
    untrained_lens,
    vectors_of,
)
from lens_multimodal.experiments.experiment import Context, Summary
from lens_multimodal.experiments.picture import PictureState
from lens_multimodal.seeds import generator_for


@dataclass(frozen=True, kw_only=True)
class ControlsSettings:
    """Which controls are run."""

    untrained: bool = True
    """The untrained language model takes as much memory as the trained one."""


class Controls:
    """A noun and its neurons without the picture, or without what was learned."""

    name = "controls"
    version = 1
    tables = ("conditions",)
    settings = ControlsSettings

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:
        found = list(_conditions(context, scene)) if context.picture.nouns else []
        return {"conditions": pd.DataFrame(found) if found else pd.DataFrame({"image_id": []})}

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        return summary.summarise(rows, seed=seed)


def _conditions(context: Context, scene: Scene) -> Iterator[dict[str, object]]:
    picture: PictureState = context.picture
    noun = picture.nouns[0]
    about = {"image_id": scene.id, "noun": noun.name, "in_picture": noun.in_picture}
    reference = as_pairs(picture.top[0])
    trained = Conditions.of(context.lens, picture, noun, _vectors(context, scene))
    rows = measured(context, trained, purpose="controls", reference=reference)
    for row, caption in zip(rows, trained.captions(), strict=True):
        yield {**about, **row, "caption": caption, "caption_says_noun": _says(context, caption, noun.name)}
    if context.settings.untrained:
        lens = untrained_lens(context)
        vectors = {"untrained language model": picture.vectors.detach()}
        untrained = Conditions.of(lens, picture, noun, vectors)
        for row in measured(context, untrained, purpose="controls untrained", reference=reference):
            yield {**about, **row, "caption": None, "caption_says_noun": None}


def _vectors(context: Context, scene: Scene) -> dict[str, Float[Tensor, "pos d_model"]]:
    """Image vectors of the picture itself and of every control; the partner is absent if no picture can be one."""
    picture: PictureState = context.picture
    lens, own = context.lens, picture.vectors.detach()
    order = torch.randperm(len(own), generator=generator_for(context.seed, "controls", scene.id, "shuffled"))
    other = partner_picture(context.scenes, scene, context.seed)
    return {
        "picture": own,
        "blank picture": vectors_of(lens, blank(picture.image)),
        "shuffled positions": own[order.to(own.device)],
        **({"another picture": vectors_of(lens, other)} if other is not None else {}),
        "random projection": vectors_of(lens, picture.image, projection=random_projection(context)),
        "random encoder": vectors_of(lens, picture.image, vision=random_encoder(context)),
    }


def _says(context: Context, caption: str, noun: str) -> bool:
    return noun in {found.name for found in context.words(caption)}
