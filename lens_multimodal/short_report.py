"""A short reproduction for demonstrations: a few pictures, the main experiments, one page."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from lens_multimodal.experiments.shared.summaries import TOO_FEW
from lens_multimodal.lens import VisionLens
from lens_multimodal.reproduction import reproduce

ONLY = ("projection", "discovery", "selectivity", "causal")
"""The paper's own experiments."""


def short_report(
    lens: VisionLens | None = None, *, page: str | Path, pictures: int = 8, seed: int = 0, progress: bool = True
) -> list[str]:
    """Run the paper's experiments on a few of the package's scenes and keep only the report.

    Args:
        lens: None for the embedded trio.
        page: the HTML file to write or replace; the Markdown summary is written next to it.
        pictures: number of pictures, drawn at random; few pictures give wide intervals.

    Returns: the verdicts at the top of the page, without those that need more pictures.
    """
    page = Path(page)
    page.parent.mkdir(parents=True, exist_ok=True)
    # On the same disk as the page, so that the finished page can be moved there in one step.
    with TemporaryDirectory(prefix=".reproduction-", dir=page.parent) as folder:
        results = reproduce(lens, only=ONLY, limit=pictures, out=Path(folder) / "run", seed=seed, progress=progress)
        verdicts = [claim.text for claim in results.claims if claim.answer != TOO_FEW]
        os.replace(results.html, page)
        shutil.copyfile(results.markdown, page.with_suffix(".md"))
    return verdicts
