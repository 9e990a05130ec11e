"""Neurons that `reproduce` found for nouns: how often, for which, and what happens without each of them.

The rows of `discovery` say for which nouns of which captions a neuron was found. For a few of these the neuron alone is
set to zero at the image positions, and the noun's logit is measured again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lens_multimodal.analysis.attribution.ablation_effect import ablation_effects
from lens_multimodal.atlas.chunk_pass import Run
from lens_multimodal.files import digest_of_file, write_text
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.claim import MANIFEST, read_manifest
from lens_multimodal.runs.processes import Processes
from lens_multimodal.runs.provenance import check_same_lens

ABLATIONS = "ablations"

NEURON = ["layer", "neuron"]


@dataclass(frozen=True, kw_only=True)
class SpokenNoun:
    """A noun of a caption, and the neurons whose ablation is measured on it."""

    place: int
    """Of the picture in the run."""
    token: int
    """The noun's first token."""
    read_pos: int
    """The position of picture, text and caption that predicts it."""
    neurons: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundNeurons:
    """The rows of a run's `discovery`."""

    rows: pd.DataFrame
    """One for each neuron of a noun: `image_id`, `noun`, `layer`, `neuron`, `attribution`."""
    nouns: pd.DataFrame
    """One for each noun: `image_id`, `noun`, `token`, `read_pos`."""
    text: str
    """Between picture and caption."""
    max_new_tokens: int
    digest: str

    @classmethod
    def read(cls, folder: Path, lens: CaptioningModel) -> "FoundNeurons":
        """What a run of `reproduce` found in the same lens.

        Raises: FileNotFoundError for a folder without rows of `discovery`; ValueError for a run of another lens.
        """
        manifest = read_manifest(folder)
        neurons, nouns = (folder / "tables" / f"discovery.{name}.parquet" for name in ("neurons", "nouns"))
        for path in (folder / MANIFEST, neurons, nouns):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{folder} has no rows of the experiment `discovery`: {path.name} is missing there"
                )
        assert manifest is not None
        check_same_lens(lens, manifest, made=f"the run in {folder}")
        picture = manifest["settings"]["picture"]
        return cls(
            rows=pd.read_parquet(neurons, columns=["image_id", "noun", *NEURON, "attribution"]),
            nouns=pd.read_parquet(nouns, columns=["image_id", "noun", "token", "read_pos"]),
            text=picture["text"],
            max_new_tokens=picture["max_new_tokens"],
            digest=digest_of_file(neurons),
        )

    def by_neuron(self) -> pd.DataFrame:
        """One row for each neuron: `layer`, `neuron`, `found_for`, `n_found`, `attribution`."""
        grouped = self.rows.groupby(NEURON)
        return pd.DataFrame(
            {
                "found_for": grouped["noun"].agg(lambda nouns: list(nouns.value_counts().index)),
                "n_found": grouped.size(),
                "attribution": grouped["attribution"].mean(),
            }
        ).reset_index()

    def to_ablate(self, run: Run) -> list[SpokenNoun]:
        """The nouns on which each neuron of the run's layers is ablated: its first ones in the order of pictures."""
        place_of = {scene.id: place for place, scene in enumerate(run.order)}
        rows = self.rows.merge(self.nouns.drop_duplicates(["image_id", "noun"]), on=["image_id", "noun"])
        rows = rows.assign(place=rows["image_id"].map(place_of)).dropna(subset=["place"])
        rows = rows[rows["layer"].isin(run.layers)].sort_values(["place", "read_pos", *NEURON])
        rows = rows[rows.groupby(NEURON).cumcount() < run.settings.n_ablations]
        return [
            SpokenNoun(
                place=int(place),
                token=int(token),
                read_pos=int(read_pos),
                neurons=tuple(zip(group["layer"].tolist(), group["neuron"].tolist(), strict=True)),
            )
            for (place, read_pos, token), group in rows.groupby(["place", "read_pos", "token"])
        ]

    def ablate(self, run: Run, noun: SpokenNoun) -> pd.DataFrame:
        """What the noun's logit loses without each neuron: `layer`, `neuron`, `effect`.

        Empty if the model does not say the noun there, as can happen in half precision on another machine, or if the
        picture cannot be read.
        """
        nothing = pd.DataFrame(columns=[*NEURON, "effect"])
        try:
            picture = run.order[noun.place].open()
        except (ValueError, OSError):
            return nothing
        prompt = run.lens.prompt(picture, self.text)
        (ids,) = run.lens.generate_ids(prompt, max_new_tokens=self.max_new_tokens)
        tokens = prompt.followed_by(ids).tokens
        says = tokens[0, noun.read_pos + 1 : noun.read_pos + 2].tolist() == [noun.token]
        effects = (
            ablation_effects(
                run.lens.model,
                tokens[:, : noun.read_pos + 1],
                noun.token,
                list(noun.neurons),
                prompt.image_pos[0],
                batch_size=run.settings.batch_size,
            )
            if says
            else nothing
        )
        run.lens.forget(prompt)
        return effects[[*NEURON, "effect"]]


def measure_ablations(
    found: FoundNeurons, run: Run, nouns: Sequence[SpokenNoun], home: Path, processes: Processes, *, progress: bool
) -> None:
    """Measure the nouns of this process that are not yet on the disk."""
    missing = [number for number in processes.share(len(nouns)) if not _path(home, number).is_file()]
    (home / ABLATIONS).mkdir(exist_ok=True)
    with processes.bar(total=len(missing), unit="noun", progress=progress) as bar:
        for number in missing:
            effects = found.ablate(run, nouns[number])
            write_text(_path(home, number), json.dumps(effects.to_numpy().tolist()))
            bar.update()


def mean_ablations(home: Path, n_nouns: int) -> pd.DataFrame:
    """One row for each neuron that was ablated: `layer`, `neuron`, `n_ablated`, `ablation`."""
    rows: list[list[Any]] = []
    for number in range(n_nouns):
        rows += json.loads(_path(home, number).read_text(encoding="utf-8"))
    table = pd.DataFrame(rows, columns=[*NEURON, "effect"]).astype({"layer": "int64", "neuron": "int64"})
    grouped = table.groupby(NEURON)["effect"]
    return pd.DataFrame({"n_ablated": grouped.size(), "ablation": grouped.mean()}).reset_index()


def _path(home: Path, number: int) -> Path:
    return home / ABLATIONS / f"{number:06d}.json"
