"""What an experiment is: rows of one picture, then tables over all pictures.

    class Causal:
        name, version, tables, settings = "causal", 1, ("ablations",), CausalSettings

        def rows(self, context, scene): ...            # one picture: {"ablations": DataFrame}
        def summarise(self, rows, *, seed): ...        # all pictures: {"probability left": Summary}

The engine (`experiments.stream`) calls `rows` once for each picture, in any order and in any process, and writes what
comes back; so `rows` may depend on the lens, the scene, the settings, the seed and the data set, and on nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import pandas as pd

from lens_multimodal.data import Scene
from lens_multimodal.lens import VisionLens

Made = TypeVar("Made")


class UnreadablePicture(ValueError):
    """A picture that the rows of a scene need cannot be read: the scene is left out, and the report says so."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an experiment may use; the engine makes one for each picture and experiment."""

    lens: VisionLens
    settings: Any
    """An instance of the experiment's own `settings`."""
    seed: int
    """Of the run; derive each generator with `generator_for(context.seed, experiment, scene.id)`."""
    scenes: Sequence[Scene] = field(repr=False)
    """The whole data set, whatever `limit` was: for partner pictures, which must not depend on the limit."""
    words: Any = field(repr=False)
    """Finds the nouns of a text."""
    picture: Any = field(repr=False)
    """What all experiments share about the picture at hand: prompt, caption, nouns, top neurons; computed once."""
    batch_size: int
    """Rows that one forward pass may take; halved after running out of memory."""
    made: dict[str, Any] = field(default_factory=dict, repr=False)
    """What `once` has made; lives as long as the process."""

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Something expensive that does not depend on the picture, made at its first use in this process.

        For models with random weights, decoded vocabularies and the like. Name it with the experiment in front:
        `context.once("controls.random projection", ...)`.
        """
        if name not in self.made:
            self.made[name] = make()
        kept: Made = self.made[name]
        return kept


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a summary is drawn: which of its columns go where.

    Attributes:
        kind: "curve" (lines with bands), "bars" (with whiskers), "layers" (a bar for each layer), "heat" (a table of
            `x` by `series` in colour) or "points".
        x, y: columns; with `low` and `high` in the frame beside `y="mean"`, intervals are drawn.
        series: the column whose values become lines or groups; None for one.
        panels: the column whose values become panels side by side; None for one.
        x_title, y_title: axes with units.
        log_x: a logarithmic horizontal axis.
        reference: a horizontal line, such as 1.0 for "nothing changed" or 0.0.
    """

    kind: str
    x: str
    y: str = "mean"
    series: str | None = None
    panels: str | None = None
    x_title: str = ""
    y_title: str = ""
    log_x: bool = False
    reference: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a drawing is one of {', '.join(KINDS)}; got {self.kind!r}")


KINDS = ("curve", "bars", "layers", "heat", "points")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One table of the report.

    Attributes:
        frame: plain columns; `mean`, `low`, `high` are shown as one column with its interval, `n` as pictures.
        title: a few words.
        caption: what is measured, over how many pictures, against what.
        n_pictures: pictures behind the table.
        verdict: one sentence computed from the numbers, or "" where none can be given.
        paper_keys: for each row of the frame the key of `paper_reference.json` that stands beside it, or None.
        drawing: how to draw it, or None for the table alone.
    """

    frame: pd.DataFrame
    title: str
    caption: str
    n_pictures: int
    verdict: str = ""
    paper_keys: tuple[str | None, ...] = ()
    drawing: Drawing | None = None

    def __post_init__(self) -> None:
        if self.paper_keys and len(self.paper_keys) != len(self.frame):
            raise ValueError(
                f"{self.title!r} has {len(self.frame)} rows but {len(self.paper_keys)} paper keys; give one for each "
                f"row (None where the paper has no number), or none at all"
            )
        if self.drawing is not None:
            used = (self.drawing.x, self.drawing.y, self.drawing.series, self.drawing.panels)
            absent = [c for c in used if c is not None and c not in self.frame.columns]
            if absent:
                raise ValueError(
                    f"the drawing of {self.title!r} uses columns {absent}, the frame has {list(self.frame.columns)}"
                )


@runtime_checkable
class Experiment(Protocol):
    """Rows for each picture and tables over all of them."""

    @property
    def name(self) -> str:
        """As in `--only NAME` and in file names."""

    @property
    def version(self) -> int:
        """Raised whenever rows change meaning, so that old parts are not continued."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the row tables."""

    @property
    def settings(self) -> type:
        """A frozen dataclass whose defaults are the paper's choices."""

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:
        """All rows of one picture, one frame for each of `tables`; the first column is `image_id`.

        Cells are numbers, strings, booleans or lists of these. A picture without anything to say gives an empty frame.
        """

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        """The tables of the report, over pictures, from the rows of all of them; frames may be empty."""
