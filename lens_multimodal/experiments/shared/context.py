"""What an experiment receives for one picture, and how it returns rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import pandas as pd

from lens_multimodal.data import Scene
from lens_multimodal.experiments.shared.once import Once
from lens_multimodal.experiments.shared.picture_state import PictureState

SettingsT = TypeVar("SettingsT")

Row = Mapping[str, object]
"""One row of a table; the first column is `image_id`."""


class UnreadablePicture(ValueError):
    """An image file that a scene's rows need cannot be read; the run skips the scene and the report lists it."""


@dataclass(frozen=True, kw_only=True)
class Context(Generic[SettingsT]):
    """What an experiment may use; the engine makes one for each picture and experiment."""

    picture: PictureState
    """The lens, the scene and what all experiments share about it: prompt, caption, nouns, top neurons."""
    settings: SettingsT
    """The experiment's own settings."""
    scenes: Sequence[Scene] = field(repr=False)
    """The whole data set, whatever `limit` was: partner pictures must not depend on the limit."""
    once: Once = field(default_factory=Once, repr=False)
    """Keeps what does not depend on the picture: models with random weights, decoded vocabularies and the like.

    It lives as long as the process: `context.once("random projection", make)`.
    """


def frame_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a data frame; without rows it still has the column `image_id`."""
    found = list(rows)
    return pd.DataFrame(found) if found else pd.DataFrame({"image_id": []})
