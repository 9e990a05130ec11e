"""How often the warning for unfamiliar pictures is right: `python -m recipes.tiny.unfamiliar FOLDER [FOLDER ...]`.

Prints one Markdown table: the share of each folder's pictures that are called unfamiliar, both whole and as random
square crops, and the share of newly composed scenes, where the warning is a false alarm. The stage `pictures` must be
finished.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from PIL import Image

from lens_multimodal.data.folders import pictures_in
from lens_multimodal.image.pictures import as_picture
from lens_multimodal.tiny import load_vision
from lens_multimodal.tiny.familiarity import Familiarity
from recipes.tiny.card import KINDS
from recipes.tiny.compare import WORK, rate
from recipes.tiny.evaluate import KINDS as SPLITS
from recipes.tiny.evaluate import fresh_scenes
from recipes.tiny.settings import Settings

CROPS = 20
"""Random crops of each picture."""


def main(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of pictures that are not drawings.")] = None,
    work: Annotated[Path, typer.Option(help="The recipe's work folder, for its pictures.")] = WORK,
) -> None:
    """Print the table."""
    known, random = Familiarity.of_scenes(load_vision()), Random(0)
    typer.echo("| pictures | number | called unfamiliar |\n| --- | --- | --- |")
    for kind, splits in SPLITS.items():
        scenes = [scene.picture for scene in fresh_scenes(Settings(), work, splits)]
        typer.echo(row(known, f"new scenes, {KINDS[kind]}", scenes))
    for folder in folders or []:
        pictures = [as_picture(file) for file in pictures_in(folder)]
        crops = [crop(picture, random) for picture in pictures for _ in range(CROPS)]
        typer.echo(row(known, folder.name, pictures))
        typer.echo(row(known, f"{folder.name}, random crops", crops))


def row(known: Familiarity, title: str, pictures: Sequence[Image.Image]) -> str:
    """A line of the table, with Wilson's interval."""
    return f"| {title} | {len(pictures)} | {rate(known.unfamiliar(pictures).tolist())} |"


def crop(picture: Image.Image, random: Random) -> Image.Image:
    """A random square of 0.3 to 0.9 times the shorter side."""
    side = int(random.uniform(0.3, 0.9) * min(picture.size))
    left, top = (random.randint(0, length - side) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


if __name__ == "__main__":
    typer.run(main)
