"""The results of a run, read from its folder when first used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lens_multimodal.experiments.claims import Claim, claims_of
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.registry import EXPERIMENTS
from lens_multimodal.experiments.shared.summaries import Summary
from lens_multimodal.experiments.stream.manifest import read
from lens_multimodal.experiments.stream.parts import read_parquet


@dataclass(frozen=True)
class Results:
    """Tables, summaries and report of a finished run.

    Raises: FileNotFoundError for a folder without a finished run.
    """

    out: Path

    def __post_init__(self) -> None:
        if read(self.out) is None:
            raise FileNotFoundError(f"{self.out} holds no run: it has no manifest.json")
        absent = [name for name in self.names if not (self.out / "tables" / f"{name}.parquet").is_file()]
        if absent:
            raise FileNotFoundError(
                f"the run in {self.out} is not finished: it has no table {', '.join(absent)}. Start the same command "
                f"again; it continues where it stopped"
            )

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Settings, versions, weights and data of the run."""
        return read(self.out) or {}

    @property
    def experiments(self) -> list[Experiment[Any]]:
        """Those that ran, in the order of the report.

        Raises: ValueError for one that this version of the library does not have.
        """
        unknown = [name for name in self.manifest["experiments"] if name not in EXPERIMENTS]
        if unknown:
            raise ValueError(f"{self.out} has results of experiments that this release lacks: {', '.join(unknown)}")
        return [EXPERIMENTS[name] for name in EXPERIMENTS if name in self.manifest["experiments"]]

    @property
    def names(self) -> list[str]:
        """Every row table as `experiment.table`."""
        return [f"{experiment.name}.{table}" for experiment in self.experiments for table in experiment.tables]

    def rows(self, name: str) -> pd.DataFrame:
        """One row table, such as `causal.ablations`."""
        return read_parquet(
            pd.read_parquet, self.out / "tables" / f"{name}.parquet", remedy="run `reproduce` again to rewrite it"
        )

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All row tables by `experiment.table`, pictures in the order of the run."""
        return {name: self.rows(name) for name in self.names}

    @cached_property
    def summaries(self) -> dict[str, dict[str, Summary]]:
        """For each experiment its tables over pictures."""
        return {
            experiment.name: experiment.summarise(
                {table: self.tables[f"{experiment.name}.{table}"] for table in experiment.tables},
                seed=self.manifest["seed"],
            )
            for experiment in self.experiments
        }

    @property
    def same_setting(self) -> bool:
        """Whether model and data are those of the paper."""
        return is_paper_setting(self.manifest)

    @cached_property
    def claims(self) -> list[Claim]:
        """Every claim with its one verdict, and the paper's finding where there is one."""
        return claims_of(self.summaries)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Pictures that could not be read: `image_id`, `file`, `error`."""
        return [json.loads(line) for line in (self.out / "errors.jsonl").read_text(encoding="utf-8").splitlines()]

    @property
    def html(self) -> Path:
        """The report as one page."""
        return self.out / "report.html"

    @property
    def markdown(self) -> Path:
        """The report as a Markdown summary."""
        return self.out / "report.md"


def is_paper_setting(manifest: Mapping[str, Any]) -> bool:
    """Whether model and data are those of the paper: GPT-J-6B with 14 x 14 image patches, and COCO 2017."""
    model = manifest["model"]
    shape = (model["n_layers"], model["d_model"], tuple(model.get("grid", ())))
    return shape == (28, 4096, (14, 14)) and "2017" in str(manifest["folder"])
