"""The site: an index that is searched in the browser, a page for each neuron, for each concept and for each layer.

Pages fetch nothing from elsewhere and need no server: the index loads one script file, which browsers allow for files
on disk, and pages refer to small copies of the pictures beside them.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lens_multimodal.atlas import Atlas
from lens_multimodal.atlas.atlas_reading import SITE, page_of, picture_of
from lens_multimodal.data import Scene
from lens_multimodal.files import write_atomically
from lens_multimodal.views.html import plain_rows, render
from lens_multimodal.views.notebook.embedded_pictures import driving_picture, shown_size

SIDE = 120
"""Pixels of the longer side of a picture on a page."""

LISTED = 100
"""Neurons listed on the page of a layer."""


def write_site(
    atlas: Atlas,
    scenes: Sequence[Scene],
    out: str | Path | None = None,
    *,
    n_neurons: int | None = 10_000,
    progress: bool = True,
) -> Path:
    """Write the pages of an atlas as a folder that appears whole; an older site in its place is replaced.

    Args:
        scenes: those of the atlas; pictures that drive no shown neuron are not opened.
        out: the folder of the site; None for the one inside the atlas, which `lens.show` and the explorer link to.
        n_neurons: pages are written for this many neurons, those with the largest intersection over union (without
            concepts, the largest activation); None for all. Lists name only neurons with a page.

    Returns: the index page.
    Raises: ValueError if `out` holds something else, or pictures of the atlas are not among `scenes`.
    """
    home = atlas.folder / SITE if out is None else Path(out)
    if home.is_dir() and any(home.iterdir()) and not (home / "index.html").is_file():
        raise ValueError(f"{home} holds other files: choose an empty folder for the site")
    site = _Site(atlas, {scene.id: scene for scene in scenes}, n_neurons)
    with write_atomically(home) as folder:
        site.write(folder, progress=progress)
    return home / "index.html"


@dataclass(eq=False)
class _Site:
    atlas: Atlas
    scenes: dict[int, Scene]
    n_neurons: int | None

    def write(self, folder: Path, *, progress: bool) -> None:
        for name in ("neuron", "concept", "layer", "pictures"):
            (folder / name).mkdir(parents=True)
        (folder / "style.css").write_text(render("atlas_style.css"), encoding="utf-8")
        _write(folder / "index.html", "atlas_index.html", up="", title="Atlas of neurons", **self._index())
        (folder / "neurons.js").write_text(f"const NEURONS = {json.dumps(self._columns())};\n", encoding="utf-8")
        shutil.copy(Path(__file__).parents[1] / "templates" / "atlas_search.js", folder / "search.js")
        for category, number in self.number_of.items():
            page = self._concept(category)
            _write(folder / "concept" / f"{number}.html", "atlas_concept.html", title=category, **page)
        for layer in sorted(self.shown["layer"].unique().tolist()):
            best = self.shown[self.shown["layer"] == layer].head(LISTED)
            title = f"Layer {layer}"
            _write(folder / "layer" / f"{layer}.html", "atlas_layer.html", title=title, neurons=plain_rows(best))
        self._write_pictures(folder, progress=progress)
        for layer, neuron, page in tqdm(
            self._neuron_pages(), total=len(self.shown), desc="pages", unit="page", disable=not progress, delay=2.0
        ):
            title = f"Layer {layer}, neuron {neuron}"
            _write(folder / page_of(layer, neuron), "atlas_neuron.html", title=title, **page)

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The neurons that have a page, best first."""
        by = "iou" if self.atlas.neurons["iou"].notna().any() else "max"
        order = self.atlas.neurons.sort_values([by, "layer", "neuron"], ascending=[False, True, True], kind="stable")
        return order.head(self.n_neurons or len(order)).reset_index(drop=True)

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Concept pages are numbered: a category's name need not be one of a file."""
        return {name: number for number, name in enumerate(self.atlas.categories["category"])}

    @cached_property
    def has_page(self) -> set[tuple[int, int]]:
        return set(zip(self.shown["layer"], self.shown["neuron"], strict=True))

    @cached_property
    def patches(self) -> pd.DataFrame:
        """The best pictures of the shown neurons."""
        table = self.atlas.patches.merge(self.shown[["layer", "neuron"]], on=["layer", "neuron"])
        absent = set(table["image_id"]) - self.scenes.keys()
        if absent:
            raise ValueError(f"pictures {sorted(absent)[:5]} of the atlas are not among the {len(self.scenes)} scenes")
        return table

    def _index(self) -> dict[str, Any]:
        manifest = self.atlas.manifest
        recurrence = self.atlas.recurrence.assign(page=self.atlas.recurrence["category"].map(self.number_of))
        concepts = self.atlas.categories.assign(page=self.atlas.categories["category"].map(self.number_of))
        first = self.atlas.concepts[self.atlas.concepts["rank"] == 0].set_index("category")
        best = {name: concepts["category"].map(first[name]) for name in ("layer", "neuron", "iou")}
        concepts = concepts.assign(**best).sort_values("iou", ascending=False, kind="stable")
        return {
            "manifest": manifest,
            "n_all": len(self.atlas.neurons),
            "n_shown": len(self.shown),
            "layers": sorted(self.shown["layer"].unique().tolist()),
            "concepts": plain_rows(concepts),
            "recurrence": plain_rows(recurrence),
        }

    def _columns(self) -> dict[str, list[Any]]:
        """What the search looks at, column by column."""
        table = self.shown
        return {
            "layer": table["layer"].tolist(),
            "neuron": table["neuron"].tolist(),
            "category": [name if isinstance(name, str) else "" for name in table["category"]],
            "iou": _rounded(table["iou"]),
            "p": _rounded(table["p"]),
            "words": [" ".join(token.strip() for token in tokens[:5]) for tokens in table["words"]],
        }

    def _concept(self, category: str) -> dict[str, Any]:
        listed = self.atlas.concept(category)
        listed = listed.assign(
            linked=[pair in self.has_page for pair in zip(listed["layer"], listed["neuron"], strict=True)]
        )
        of_category = self.atlas.recurrence[self.atlas.recurrence["category"] == category]
        facts = self.atlas.categories[self.atlas.categories["category"] == category].iloc[0]
        return {"neurons": plain_rows(listed), "facts": facts.to_dict(), "recurrence": plain_rows(of_category)}

    def _neuron_pages(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        concepts = self.atlas.neuron_concepts.merge(self.shown[["layer", "neuron"]], on=["layer", "neuron"])
        concepts = concepts.assign(page=concepts["category"].map(self.number_of))
        for layer, shown in self.shown.groupby("layer"):
            pictures = _by_neuron(self.patches[self.patches["layer"] == layer])
            of_layer = _by_neuron(concepts[concepts["layer"] == layer])
            for facts in plain_rows(shown):
                neuron = facts["neuron"]
                yield (
                    int(layer),
                    neuron,
                    {
                        "facts": facts,
                        "concepts": of_layer.get(neuron, []),
                        "pictures": [self._picture(row) for row in pictures[neuron]],
                    },
                )

    def _picture(self, row: dict[str, Any]) -> dict[str, Any]:
        picture = self.atlas.picture(row)
        return driving_picture(picture, src=f"../{picture_of(picture.image_id)}", side=SIDE)

    def _write_pictures(self, folder: Path, *, progress: bool) -> None:
        wanted = sorted(self.patches["image_id"].unique().tolist())
        for image_id in tqdm(wanted, desc="pictures", unit="picture", disable=not progress, delay=2.0):
            scene = self.scenes[image_id]
            small = scene.open().resize(shown_size(scene.width, scene.height, side=2 * SIDE))
            small.save(folder / picture_of(image_id), quality=80)


def _by_neuron(table: pd.DataFrame) -> dict[int, list[dict[str, Any]]]:
    """The rows of each neuron of one layer."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in plain_rows(table):
        found.setdefault(row["neuron"], []).append(row)
    return found


def _rounded(column: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in column]


def _write(path: Path, template: str, *, up: str = "../", **values: Any) -> None:
    """Args: up: from the page to the folder of the site."""
    path.write_text(render(template, up=up, **values), encoding="utf-8")
