"""The findings of trios side by side: `python -m recipes.tiny.compare TRIO [TRIO ...]` prints one Markdown table.

A trio is a folder laid out as `pack` writes it; the package's own is `lens_multimodal/tiny`. All trios are measured
on the same newly composed scenes, so the stage `pictures` must be finished. Neurons are measured on the scenes of
known drawings that the trio itself captions correctly. Every figure has its 95 % interval over scenes: Wilson's where
a scene counts as yes or no, bootstrap elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import pandas as pd
import typer

from lens_multimodal.analysis.effects.bootstrap import bootstrap_interval
from recipes.tiny.card import KINDS
from recipes.tiny.evaluate import KINDS as SPLITS
from recipes.tiny.evaluate import fresh_scenes, open_trio
from recipes.tiny.evaluate.captions import caption_all, nouns_in, seen
from recipes.tiny.evaluate.translation import COUNTS, WHERE, translation_by_scene
from recipes.tiny.projection import read_nouns
from recipes.tiny.sample_scene import Scene
from recipes.tiny.settings import Settings

WORK = Path(__file__).parent / "work"
MEANS = {
    **{f"noun's probability left without {n} neurons": f"left without {{}} {n}" for n in COUNTS},
    "receptive field and object, intersection over union": "overlap, {}",
}
RATES = {f"a top-20 neuron {where} writes the noun": f"noun written {where}, {{}}" for where in WHERE.values()}
"""Like `MEANS`, rows that compare top neurons with random ones: title, and column of `translation_by_scene`."""


def main(
    trios: Annotated[list[Path], typer.Argument(help="Folders of trios.")],
    work: Annotated[Path, typer.Option(help="The recipe's work folder, for its pictures.")] = WORK,
    scenes: Annotated[int, typer.Option(help="New scenes of each kind of drawing.")] = 400,
    translated: Annotated[int, typer.Option(help="Scenes of known drawings on which neurons are measured.")] = 120,
) -> None:
    """Print the table."""
    settings = Settings()
    settings = replace(settings, evaluate=replace(settings.evaluate, scenes=scenes))
    fresh = {kind: fresh_scenes(settings, work, splits) for kind, splits in SPLITS.items()}
    columns = {str(trio): findings(trio, fresh, nouns=read_nouns(work), translated=translated) for trio in trios}
    typer.echo(markdown(columns))


def findings(
    trio: Path, scenes: Mapping[str, Sequence[Scene]], *, nouns: Sequence[str], translated: int
) -> dict[str, str]:
    """The rows of one trio's column: figures with their intervals."""
    lens = open_trio(trio)
    rows = {}
    for kind, own in scenes.items():
        said = caption_all(lens, own, seen(lens))
        rows[f"captions right, {KINDS[kind]}"] = rate([c.scene.nouns[0] in nouns_in(c.caption, nouns) for c in said])
    table = translation_by_scene(lens, scenes["known"][:translated])
    rows["scenes of the rows below"] = str(len(table))
    if table.empty:
        return rows
    rows["covered patches nearest to the noun's embedding"] = share(table["nearest"].dropna())
    first = [f"top five in layer {k}" for k in range(lens.shape.n_layers // 3)]
    rows["top five neurons in layer 0"] = share(table["top five in layer 0"])
    rows["top five neurons in the first third of the layers"] = share(table[first].sum(axis=1))
    deepest = max((column for column in table if column.startswith("depth ")), key=lambda c: table[c].mean())
    rows["covered patches that read as the noun, at their best depth"] = (
        f"{share(table[deepest].dropna())} after {deepest.removeprefix('depth ')} blocks"
    )
    for titles, formatted in ((MEANS, number), (RATES, rate)):
        for title, column in titles.items():
            top, random = (formatted(table[column.format(who)]) for who in ("top", "random"))
            rows[title] = f"{top}; random {random}"
    return rows


def markdown(columns: Mapping[str, Mapping[str, str]]) -> str:
    """The columns as one table; a figure that a trio lacks is left empty."""
    table = pd.DataFrame(columns).fillna("")
    lines = [["", *columns], ["---"] * (len(columns) + 1), *([title, *row] for title, row in table.T.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rate(values: Sequence[bool | float] | pd.Series) -> str:
    """The share of true values in per cent, with Wilson's interval (1927)."""
    n, z = len(values), NormalDist().inv_cdf(0.975)
    mean = sum(values) / n
    middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (mean * (1 - mean) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return f"{mean:.1%} [{max(0.0, middle - half):.1%}, {min(1.0, middle + half):.1%}]"


def share(values: Sequence[float] | pd.Series) -> str:
    """A mean in per cent, with its interval."""
    found = bootstrap_interval(values)
    return f"{found.mean:.1%} [{found.low:.1%}, {found.high:.1%}]"


def number(values: pd.Series) -> str:
    """A mean with its interval."""
    found = bootstrap_interval(values)
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    typer.run(main)
