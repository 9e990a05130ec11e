"""`caption`: captions of pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_multimodal.cli import options
from lens_multimodal.cli.picture_sources import Pictures, find_pictures

if TYPE_CHECKING:
    from PIL import Image

    from lens_multimodal.lens import VisionLens


def caption(
    pictures: Pictures,
    text: options.Text = None,
    prepend_bos: options.PrependBos = None,
    max_new_tokens: options.MaxNewTokens = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per batch.")] = 16,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Skip pictures that cannot be read; the exit code is still 1.")
    ] = False,
    lens_options: options.LensOptions = options.TINY,
    output: options.OutputOptions = options.SCREEN,
) -> None:
    """Caption pictures.

    [bold]Examples[/bold]

    lens-multimodal caption dog.png

    lens-multimodal caption photos/ --format json --out captions.json

    lens-multimodal caption 'photos/*.jpg' --text "I see" --model gpt-j-limber-beit --device cuda --dtype bfloat16
    """
    found = find_pictures(pictures)

    import pandas as pd

    from lens_multimodal.prompt.image_prompt import PROMPT

    lens = lens_options.open()
    opened = Opened(paths=found, keep_going=keep_going)
    after = PROMPT if text is None else text
    captions = list(
        lens.caption_stream(
            opened,
            after,
            prepend_bos=prepend_bos,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=False,
        )
    )
    read = pd.Series([path for path in found if path not in opened.unread], dtype=object)
    output.write(pd.DataFrame({"picture": read, "caption": captions}), title="Captions")
    for line in _unfamiliar(lens, list(read)):
        typer.echo(f"warning: {line}", err=True)
    if opened.unread:
        for message in opened.unread.values():
            typer.echo(f"skipped: {message}", err=True)
        raise typer.Exit(1)


def _unfamiliar(lens: "VisionLens", paths: Sequence[Path]) -> Iterator[str]:
    """A warning for each picture that is unlike everything the tiny trio was trained on."""
    from lens_multimodal.image.pictures import as_picture
    from lens_multimodal.tiny.familiarity import FALSE_ALARMS, familiarity_of

    known = familiarity_of(lens.images)
    for path in paths if known is not None else ():
        assert known is not None
        if bool(known.unfamiliar([as_picture(path)])[0]):
            yield (
                f"{path} is unlike the drawings that the tiny trio was trained on, so its caption means little "
                f"(measured by the encoder's features; {FALSE_ALARMS:.0%} of its own scenes are flagged by mistake)"
            )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Pictures, each opened only when the iteration reaches it; its progress bar counts those skipped as well."""

    paths: Sequence[Path]
    keep_going: bool
    unread: dict[Path, str] = field(default_factory=dict)
    """The pictures that were skipped, with the reason; filled while iterating."""

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator["Image.Image"]:
        from tqdm.auto import tqdm

        from lens_multimodal.image.pictures import as_picture

        for path in tqdm(self.paths, desc="pictures", unit="picture", delay=2):
            try:
                yield as_picture(path)
            except (ValueError, OSError) as error:
                if not self.keep_going:
                    raise
                self.unread[path] = " ".join(str(error).split())
