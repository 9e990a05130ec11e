"""What an experiment is: rows for one picture, then tables over all pictures.

    class Causal(Experiment[CausalSettings]):
        name, version, question = "causal", 1, "Do these neurons cause the word?"
        tables = ("ablations",)
        summaries = (SummaryTable(name="probability", rows=..., by=("neurons",), ...),)

        def rows(self, context): ...            # one picture: {"ablations": DataFrame}

`experiments.stream` calls `rows` once for each picture, in any order and in any process, and writes the result; so
`rows` may depend only on the lens, the scene, the settings, the seed and the data set.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Generic, get_args

import pandas as pd
from typing_extensions import get_original_bases

from lens_multimodal.experiments.shared.context import Context, Row, SettingsT, frame_of
from lens_multimodal.experiments.shared.summaries import Summary, SummaryTable, summarised


class Experiment(ABC, Generic[SettingsT]):
    """Rows for each picture and tables over all of them; add your own to `experiments.registry`."""

    name: ClassVar[str]
    """As in `--only NAME` and in file names."""
    version: ClassVar[int]
    """Raise it whenever rows change meaning, so that old parts are not continued."""
    question: ClassVar[str]
    """The heading in the report."""
    answer: ClassVar[str | None] = None
    """The summary whose verdict is shown beside the paper's finding (`NAME.finding` in `paper_reference.json`)."""
    tables: ClassVar[tuple[str, ...]]
    """Names of the row tables."""
    settings: ClassVar[type]
    """A frozen dataclass whose defaults are the paper's choices; by default the one in `Experiment[...]`."""
    summaries: ClassVar[tuple[SummaryTable, ...]] = ()
    """The tables of the report, in order."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        named = [kind for base in get_original_bases(cls) for kind in get_args(base) if isinstance(kind, type)]
        if named and "settings" not in vars(cls):
            cls.settings = named[0]

    @abstractmethod
    def rows(self, context: Context[SettingsT]) -> dict[str, pd.DataFrame]:
        """All rows of one picture, one frame for each of `tables`; the first column is `image_id`.

        Cells are numbers, strings, booleans or lists of these. A picture that gives no rows gives an empty frame.
        """

    def frames(self, **rows: Iterable[Row]) -> dict[str, pd.DataFrame]:
        """Rows by table as `rows` returns them; tables that are not given are empty."""
        return {name: frame_of(rows.get(name, ())) for name in self.tables}

    def summarise(self, rows: Mapping[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        """The report's tables from the rows of all pictures; frames may be empty."""
        return summarised(self.summaries, rows, seed=seed)
