"""Options that several commands share, and the lens they open."""

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_multimodal.files import check_folder_name
from lens_multimodal.views import terminal

if TYPE_CHECKING:
    import pandas as pd

    from lens_multimodal.lens import VisionLens
    from lens_multimodal.prompt.image_prompt import ImagePrompt

PANEL = "Which lens"


class Where(str, Enum):
    """Positions by the names of `arguments.positions`."""

    image = "image"
    last = "last"
    text = "text"


Positions = Annotated[
    Where,
    typer.Option(
        help="image: where the picture is read (the paper); last: where the word is predicted, and at each new token "
        "of a caption; text: at the words."
    ),
]


class Precision(str, Enum):
    """Precisions that weights can be cast to."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Text = Annotated[str | None, typer.Option(help="Text after the image. Default: the paper's prompt.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum length of a caption, in tokens.")]
Word = Annotated[str, typer.Option("--word", "-w", help="A word that is a single token; leave out its leading space.")]
Before = Annotated[
    str | None,
    typer.Option(
        "--text",
        help="Text after the image, up to where the word is predicted, such as 'A picture of a'. Default: the model's "
        "own caption up to the word.",
    ),
]
PrependBos = Annotated[
    bool | None,
    typer.Option(
        "--bos/--no-bos",
        help="Begin the prompt with a beginning-of-sequence token. Default: as the tokenizer does.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class LensOptions:
    """Which lens a command works with."""

    model: Annotated[
        str | None,
        typer.Option(
            help="A preset (gpt-j-limber-beit, ...), a saved lens, or a Hugging Face model on this machine. "
            "Default: the tiny trio inside the package.",
            rich_help_panel=PANEL,
        ),
    ] = None
    vision: Annotated[
        str | None,
        typer.Option(help="An image encoder: a preset, a folder with a BEiT, or a timm name.", rich_help_panel=PANEL),
    ] = None
    projection: Annotated[
        Path | None,
        typer.Option(help="The linear map: a .ckpt or .safetensors file.", rich_help_panel=PANEL),
    ] = None
    device: Annotated[str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.", rich_help_panel=PANEL)] = (
        None
    )
    dtype: Annotated[Precision | None, typer.Option(help="Precision of all weights.", rich_help_panel=PANEL)] = None

    def __post_init__(self) -> None:
        if self.projection is not None and not self.projection.exists():
            raise FileNotFoundError(f"no projection at {str(self.projection)!r}")

    def open(self) -> "VisionLens":
        """The lens that the options name.

        Raises: as `attach_vision`; ValueError for a device that does not exist.
        """
        from lens_multimodal.attach import attach_vision

        model = self.model
        if model is None and (self.vision is not None or self.projection is not None):
            model = "tiny"
        device = self.checked_device()
        with _without_loading_bar() if model in (None, "tiny") else nullcontext():
            return attach_vision(
                model, vision=self.vision, projection=self.projection, device=device, dtype=self.torch_dtype
            )

    @property
    def torch_dtype(self) -> Any:
        """The torch dtype of `dtype`, or None."""
        import torch

        return None if self.dtype is None else getattr(torch, self.dtype.value)

    def checked_device(self) -> str | None:
        """The device given, or this process's own under `accelerate launch` and `torchrun`; None leaves it to torch.

        Raises: ValueError for a device that this machine does not have.
        """
        import torch

        device = self.device or device_of_this_process()
        if device is None:
            return None
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"the device {device!r} cannot be used here ({str(error).splitlines()[0]}); "
                f"`lens-multimodal info` lists the devices of this machine"
            ) from error
        return device


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where a command's table goes."""

    form: terminal.AsFormat = None
    out: terminal.Out = None

    def __post_init__(self) -> None:
        terminal.check(self.out, self.form)

    @property
    def is_page(self) -> bool:
        """Whether the output is an HTML page."""
        return (self.form or terminal.format_by_ending(self.out)) is terminal.Format.html

    def write(
        self,
        table: "pd.DataFrame",
        *,
        title: str,
        largest: str | None = None,
        page: Callable[[str], str] | None = None,
    ) -> None:
        """Write the table, as `terminal.write`."""
        terminal.write(table, title=title, out=self.out, form=self.form, largest=largest, page=page)


TINY, SCREEN = LensOptions(), OutputOptions()
"""What a command uses without options."""


def device_of_this_process() -> str | None:
    """The GPU of this process under `accelerate launch` or `torchrun`; None for a single process."""
    import torch

    local_rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{local_rank}" if local_rank and torch.cuda.is_available() else None


def is_first_process() -> bool:
    """Whether this process prints for all."""
    return os.environ.get("RANK", "0") == "0"


def output_folder(text: str) -> Any:
    """`--out` of a command that fills a folder; text: what goes there."""
    return typer.Option("--out", "-o", help=text, callback=check_folder_name)


def one_of(known: Collection[str], text: str) -> Any:
    """An option that accepts only known names, the paper's first; text: what it decides."""

    def check(given: str) -> str:
        if given not in known:
            raise typer.BadParameter(f"{given!r} is not one of {', '.join(known)}")
        return given

    return typer.Option(help=f"{text}: {' | '.join(known)} (the first is the paper's).", callback=check)


def layer_numbers(given: str | None) -> list[int] | None:
    """Layers written as `0,3-5`; None without any.

    Raises: ValueError for anything else, or a range that runs backwards.
    """
    if given is None:
        return None
    layers: list[int] = []
    for part in given.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part)
        first, last = (0, -1) if found is None else (int(found[1]), int(found[2] or found[1]))
        if last < first:
            raise ValueError(f"expected layers such as 0,3-5, got {given!r}")
        layers += range(first, last + 1)
    return layers


def as_token(word: str) -> str:
    """A word with the leading space that it has inside a sentence."""
    return word if word.startswith(" ") else f" {word}"


def prompt_for(
    lens: "VisionLens", picture: Path, word: str, text: str | None, prepend_bos: bool | None
) -> "ImagePrompt":
    """The prompt that ends where `word` is predicted: after `text`, or after the model's own caption up to the word.

    Raises: ValueError for a word of several tokens, a picture that cannot be read, or a caption without the word.
    """
    from lens_multimodal.image.pictures import as_picture

    target, opened = as_token(word), as_picture(picture)
    lens.text.token_id(target)
    if text is not None:
        return lens.prompt(opened, text, prepend_bos=prepend_bos)
    try:
        return lens.prompt_before(opened, target, prepend_bos=prepend_bos)
    except ValueError as error:
        raise ValueError(f"{picture}: {error} (on the command line: --text 'A picture of a')") from error


@contextmanager
def _without_loading_bar() -> Iterator[None]:
    """The tiny trio loads too fast for a progress bar to be of use."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
