"""Options that several commands share, and the lens they ask for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lens_multimodal.lens import VisionLens
    from lens_multimodal.prompt.image_prompt import ImagePrompt

PANEL = "Which lens"


class Precision(str, Enum):
    """Names of the precisions that weights can be brought to."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Model = Annotated[
    str | None,
    typer.Option(
        help="A preset (gpt-j-limber-beit, ...), a saved lens, or a Hugging Face model on this machine; "
        "without it, the tiny trio inside the package.",
        rich_help_panel=PANEL,
    ),
]
Vision = Annotated[
    str | None,
    typer.Option(help="An image encoder: a preset, a folder with a BEiT, or a timm name.", rich_help_panel=PANEL),
]
ProjectionFile = Annotated[
    Path | None,
    typer.Option("--projection", help="The linear map: a .ckpt or .safetensors file.", rich_help_panel=PANEL),
]
Device = Annotated[str | None, typer.Option(help="Where it runs: cpu, cuda, cuda:1, mps.", rich_help_panel=PANEL)]
Dtype = Annotated[Precision | None, typer.Option(help="Precision of all weights.", rich_help_panel=PANEL)]

Text = Annotated[str | None, typer.Option(help="Text after the image; without it, 'A picture of'.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Length of a caption at most, in tokens.")]
Word = Annotated[str, typer.Option("--word", "-w", help="A word that is one token, without its leading space.")]
Before = Annotated[
    str | None,
    typer.Option(
        "--text",
        help="Text after the image that ends where the word is predicted, such as 'A picture of a'; without it, the "
        "model's own caption up to the word.",
    ),
]


def open_lens(
    model: str | None,
    *,
    vision: str | None = None,
    projection: Path | None = None,
    device: str | None = None,
    dtype: Precision | None = None,
) -> "VisionLens":
    """The lens that the options name.

    Raises: as `attach_vision`; ValueError for a device that does not exist.
    """
    from lens_multimodal.attach import attach_vision

    device = device or device_of_this_process()
    check_device(device)
    if model is None and (vision is not None or projection is not None):
        model = "tiny"
    with _without_loading_bar() if model in (None, "tiny") else nullcontext():
        return attach_vision(model, vision=vision, projection=projection, device=device, dtype=torch_dtype(dtype))


def torch_dtype(dtype: Precision | None) -> Any:
    """The torch dtype of that name, or None."""
    import torch

    return None if dtype is None else getattr(torch, dtype.value)


def check_device(device: str | None) -> None:
    """Raises: ValueError for a device that this machine does not have."""
    import torch

    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"the device {device!r} cannot be used here ({str(error).splitlines()[0]}); "
            f"`lens-multimodal info` lists the devices of this machine"
        ) from error


def device_of_this_process() -> str | None:
    """Under `accelerate launch` or `torchrun`, each process has a GPU of its own; None by itself."""
    import torch

    local_rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{local_rank}" if local_rank and torch.cuda.is_available() else None


def is_first_process() -> bool:
    """Whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def as_token(word: str) -> str:
    """A word as it stands inside a sentence: with its leading space."""
    return word if word.startswith(" ") else f" {word}"


def prompt_for(lens: "VisionLens", picture: Path, word: str, text: str | None) -> "ImagePrompt":
    """The prompt that ends where `word` is predicted: after `text`, or else after the model's own caption up to it.

    Raises: ValueError for a word of several tokens, a picture that cannot be read, or a caption without the word.
    """
    from lens_multimodal.image.pictures import as_picture

    target, opened = as_token(word), as_picture(picture)
    lens.token_id(target)
    if text is not None:
        return lens.prompt(opened, text)
    try:
        return lens.prompt_before(opened, target)
    except ValueError as error:
        raise ValueError(
            f"{picture}: {str(error).split(';')[0]}; give the words before it with --text, such as --text 'A picture "
            f"of a'"
        ) from error


@contextmanager
def _without_loading_bar() -> Iterator[None]:
    """The tiny trio loads too fast for a progress bar to say anything."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
