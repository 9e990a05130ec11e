"""Read an atlas: its tables, one neuron, one concept, a search for words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pandas as pd
from jaxtyping import Int

from lens_multimodal.arguments.boundary import ArgumentTypeError, ArgumentValueError, public
from lens_multimodal.image.geometry import Box
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.claim import manifest_of_kind
from lens_multimodal.runs.provenance import check_same_lens

TABLES, SITE = "tables", "site"


@dataclass(frozen=True, kw_only=True)
class DrivingPicture:
    """A picture that drives a neuron, and the image patch where it is most active."""

    image_id: int
    file: str
    width: int
    """Pixels of the picture."""
    height: int
    patch: Box
    activation: float
    small: Path | None
    """A small copy of the picture in the atlas' site, if it has one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AtlasEntry:
    """What an atlas records about one neuron."""

    layer: int
    neuron: int
    facts: dict[str, Any]
    """Its row of `Atlas.neurons`."""
    patches: pd.DataFrame
    """The pictures that drive it most, best first, with the image patch."""
    concepts: pd.DataFrame
    """The categories it overlaps most, best first."""
    pictures: tuple[DrivingPicture, ...]
    """The rows of `patches`, with the patch as a box of the picture."""
    page: Path | None
    """Its page in the atlas' site, if it has one."""
    n_pictures: int
    """Pictures of the data set."""


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
        self._lenses: WeakSet[CaptioningModel] = WeakSet()

    @classmethod
    def of(cls, lens: CaptioningModel, atlas: "Atlas | str | Path", *, name: str = "atlas") -> "Atlas":
        """An atlas, or the one in a folder, that was made with this lens.

        Args: name: of the argument, for errors.
        Raises: ArgumentTypeError, ArgumentValueError; FileNotFoundError as `Atlas`.
        Cost: all weights are hashed, once for an atlas that is kept (a second per gigabyte).
        """
        if not isinstance(atlas, (Atlas, str, Path)):
            raise ArgumentTypeError(f"expected an atlas or its folder, got {type(atlas).__name__}", name)
        found = atlas if isinstance(atlas, Atlas) else cls(atlas)
        if lens not in found._lenses:
            try:
                check_same_lens(lens, found.manifest, made=f"the atlas in {found.folder}")
            except ValueError as error:
                raise ArgumentValueError(str(error), name) from None
            found._lenses.add(lens)
        return found

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
        facts = self._rows("neurons", layer, neuron)
        if not len(facts):
            layers = sorted(self.neurons["layer"].unique().tolist())
            raise ArgumentValueError(
                f"no neuron {neuron} of layer {layer} in this atlas of layers {layers}, with neurons up to "
                f"{self.neurons['neuron'].max()}",
                "neuron",
            )
        patches = self._rows("patches", layer, neuron)
        return AtlasEntry(
            layer=layer,
            neuron=neuron,
            facts=facts.iloc[0].to_dict(),
            patches=patches,
            concepts=self._rows("neuron_concepts", layer, neuron),
            pictures=tuple(self.picture(row) for row in patches.to_dict("records")),
            page=_if_there(self.folder / SITE / page_of(layer, neuron)),
            n_pictures=self.manifest["data"]["scenes"],
        )

    def picture(self, row: Mapping[Any, Any]) -> DrivingPicture:
        """A row of `patches` as a picture with a box."""
        image_id, width, height = (int(row[name]) for name in ("image_id", "width", "height"))
        return DrivingPicture(
            image_id=image_id,
            file=row["file"],
            width=width,
            height=height,
            patch=Box(**{name: float(row[name]) for name in ("left", "top", "right", "bottom")}),
            activation=float(row["activation"]),
            small=_if_there(self.folder / SITE / picture_of(image_id)),
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
        """The neurons that write a word, or whose best category it is; case and spaces around tokens are ignored."""
        wanted = word.strip().lower()
        writes = [any(token.strip().lower() == wanted for token in tokens) for tokens in self.neurons["words"]]
        shows = self.neurons["category"].astype("string").str.lower() == wanted
        return self.neurons[pd.Series(writes, index=self.neurons.index) | shows.fillna(False)].reset_index(drop=True)

    def _table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / TABLES / f"{name}.parquet")

    def _rows(self, name: str, layer: int, neuron: int) -> pd.DataFrame:
        """One neuron's rows of a table, which are contiguous."""
        table = getattr(self, name)
        if name not in self._neuron_numbers:
            self._neuron_numbers[name] = _number(table["layer"].to_numpy(), table["neuron"].to_numpy())
        first, after = np.searchsorted(self._neuron_numbers[name], [_number(layer, neuron), _number(layer, neuron) + 1])
        return table.iloc[first:after].reset_index(drop=True)

    @cached_property
    def _neuron_numbers(self) -> dict[str, Int[np.ndarray, " row"]]:
        """For each table, the sortable number of the neuron in each row; the tables are sorted by it."""
        return {}


def page_of(layer: int, neuron: int) -> str:
    """A neuron's page, relative to the folder of the site."""
    return f"neuron/L{layer}N{neuron}.html"


def picture_of(image_id: int) -> str:
    """The small copy of a picture, relative to the folder of the site."""
    return f"pictures/{image_id}.jpg"


def _number(layer: Any, neuron: Any) -> Any:
    """One number that orders neurons by layer, then by index."""
    return layer * 2**32 + neuron


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None
