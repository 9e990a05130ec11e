"""`caption`: captions of pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_multimodal.cli import options
from lens_multimodal.cli.picture_sources import Pictures, find_pictures
from lens_multimodal.cli.unfamiliar_pictures import warn_of_unfamiliar

if TYPE_CHECKING:
    from PIL import Image


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
    warn_of_unfamiliar(lens, list(read))
    if opened.unread:
        for message in opened.unread.values():
            typer.echo(f"skipped: {message}", err=True)
        raise typer.Exit(1)


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
