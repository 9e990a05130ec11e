"""Read an atlas: its tables, one neuron, one concept, a search for words."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.runs.claim import manifest_of_kind

TABLES = "tables"


@dataclass(frozen=True, kw_only=True, eq=False)
class AtlasEntry:
    """What an atlas knows of one neuron."""

    layer: int
    neuron: int
    facts: dict[str, Any]
    """Its row of `Atlas.neurons`."""
    patches: pd.DataFrame
    """The pictures that drive it most, best first, with the image patch."""
    concepts: pd.DataFrame
    """The categories it overlaps most, best first."""


class Atlas:
    """A finished folder of `build_atlas`; tables are read when they are first used.

    Attributes:
        folder: where it is.
        manifest: settings, model, digests of the weights, data, versions.

    Raises:
        FileNotFoundError: no such folder, or one that `build_atlas` has not finished.
        ValueError: the folder of something else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = manifest_of_kind(self.folder, "atlas", holds="atlas")
        if not (self.folder / TABLES).is_dir():
            raise FileNotFoundError(
                f"the atlas in {self.folder} is not finished. Start the same command again; it continues where it "
                f"stopped"
            )
        self.manifest: dict[str, Any] = manifest

    def __repr__(self) -> str:
        return f"Atlas({str(self.folder)!r}: {len(self.neurons):,} neurons)"

    @cached_property
    def neurons(self) -> pd.DataFrame:
        """One row for each neuron; `atlas_tables.COLUMNS` says what the columns of all tables hold."""
        return self._table("neurons")

    @cached_property
    def patches(self) -> pd.DataFrame:
        """The pictures that drive each neuron most."""
        return self._table("patches")

    @cached_property
    def concepts(self) -> pd.DataFrame:
        """The best neurons of each category."""
        return self._table("concepts")

    @cached_property
    def neuron_concepts(self) -> pd.DataFrame:
        """The best categories of each neuron."""
        return self._table("neuron_concepts")

    @cached_property
    def categories(self) -> pd.DataFrame:
        """How many pictures show each category, and how much of them it covers."""
        return self._table("categories")

    @cached_property
    def recurrence(self) -> pd.DataFrame:
        """Whether each category's neurons recur over pictures they were not found on."""
        return self._table("recurrence")

    @cached_property
    def failed(self) -> list[dict[str, Any]]:
        """Pictures that could not be read, each with its file and the error."""
        found: list[dict[str, Any]] = json.loads((self.folder / TABLES / "failed.json").read_text(encoding="utf-8"))
        return found

    @public
    def neuron(self, layer: int, neuron: int) -> AtlasEntry:
        """Everything about one neuron.

        Raises: ArgumentValueError for a neuron that the atlas does not have.
        """
        facts = _of(self.neurons, layer, neuron)
        if not len(facts):
            layers = sorted(self.neurons["layer"].unique().tolist())
            raise ArgumentValueError(
                f"no neuron {neuron} of layer {layer} in this atlas of layers {layers}, with neurons up to "
                f"{self.neurons['neuron'].max()}",
                "neuron",
            )
        return AtlasEntry(
            layer=layer,
            neuron=neuron,
            facts=facts.iloc[0].to_dict(),
            patches=_of(self.patches, layer, neuron).reset_index(drop=True),
            concepts=_of(self.neuron_concepts, layer, neuron).reset_index(drop=True),
        )

    @public
    def concept(self, category: str) -> pd.DataFrame:
        """The neurons that overlap a category most, best first.

        Raises: ArgumentValueError for a category that the data set does not have.
        """
        known = self.categories["category"].tolist()
        if category not in known:
            raise ArgumentValueError(f"no category {category!r}; there are {', '.join(known)}", "category")
        return self.concepts[self.concepts["category"] == category].reset_index(drop=True)

    @public
    def search(self, word: str) -> pd.DataFrame:
        """The neurons that write a word, or whose best category it is; case and spaces around tokens do not count."""
        wanted = word.strip().lower()
        writes = [any(token.strip().lower() == wanted for token in tokens) for tokens in self.neurons["words"]]
        shows = self.neurons["category"].astype("string").str.lower() == wanted
        return self.neurons[pd.Series(writes, index=self.neurons.index) | shows.fillna(False)].reset_index(drop=True)

    def _table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / TABLES / f"{name}.parquet")


def _of(table: pd.DataFrame, layer: int, neuron: int) -> pd.DataFrame:
    return table[(table["layer"] == layer) & (table["neuron"] == neuron)]
