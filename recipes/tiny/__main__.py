"""`python -m recipes.tiny STAGE`: one command per stage, `all` for the whole trio; `ship` puts it into the package."""

from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich import print_json

from lens_multimodal.files import SettingsChanged
from recipes.tiny.settings import Settings, toy

STAGES = (
    "fetch",
    "pictures",
    "text",
    "tokenizer",
    "language",
    "oracle",
    "vision",
    "projection",
    "samples",
    "pack",
    "evaluate",
)
"""In the order in which they depend on one another."""

Choice = Enum("Choice", {name: name for name in (*STAGES, "ship", "all")}, type=str)

WORK = Path(__file__).parent / "work"
PACKAGE = Path(__file__).parents[2] / "lens_multimodal" / "tiny"


def run(stage: str, settings: Settings, work: Path) -> None:
    """Run one stage, or all of them in order; a stage that is done already returns its report at once."""
    for name in STAGES if stage == "all" else (stage,):
        report = import_module(f"recipes.tiny.{name}").run(settings, work)
        print_json(data={name: report})


def main(
    stage: Annotated[Choice, typer.Argument(help="A stage, `all`, or `ship`.")],
    work: Annotated[Path, typer.Option(help="Where everything is made; a killed run continues there.")] = WORK,
    small: Annotated[bool, typer.Option("--toy", help="The whole recipe at toy size, in minutes.")] = False,
) -> None:
    """Make the tiny trio from scratch."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        if stage.value == "ship":
            from recipes.tiny.card import write_card
            from recipes.tiny.pack import ship

            ship(work, PACKAGE)
            write_card(work, PACKAGE)
        else:
            run(stage.value, toy() if small else Settings(), work)
    except SettingsChanged as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
