"""`info`: versions, devices, and whether the hook points of a model work."""

import platform
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated

import typer

from lens_multimodal.cli import options

if TYPE_CHECKING:
    from torch import nn

    from lens_multimodal.lens import VisionLens

PACKAGES = ("lens-multimodal", "torch", "transformer-lens", "transformers", "timm", "plotly", "accelerate", "pyarrow")

Row = tuple[str, str, str]
"""Kind, name and value of one fact."""


def info(
    hooks: Annotated[bool, typer.Option(help="Load the lens and test its hook points.")] = True,
    lens_options: options.LensOptions = options.TINY,
    output: options.OutputOptions = options.SCREEN,
) -> None:
    """Show versions, devices, presets, and which hook points of the model fire and reach the logits.

    [bold]Examples[/bold]

    lens-multimodal info

    lens-multimodal info --no-hooks --format json

    lens-multimodal info --model gpt-j-limber-beit --device cuda --dtype bfloat16
    """
    import pandas as pd

    rows = [*_versions(), *_devices(), *_presets()]
    if hooks:
        lens = lens_options.open()
        rows += [("lens", lens.name, repr(lens)), ("lens", "runs on", lens.runs_on), *_hook_points(lens)]
    table = pd.DataFrame(rows, columns=["kind", "name", "value"])
    output.write(table, title="lens_multimodal on this machine")


def _versions() -> Iterator[Row]:
    yield "version", "python", platform.python_version()
    for name in PACKAGES:
        try:
            yield "version", name, version(name)
        except PackageNotFoundError:
            yield "version", name, "not installed"


def _devices() -> Iterator[Row]:
    import torch

    yield "device", "cpu", f"{torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        sizes = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield "device", f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {sizes}"
    if torch.backends.mps.is_available():
        yield "device", "mps", "available"


def _presets() -> Iterator[Row]:
    from lens_multimodal import presets

    for name in presets.names():
        yield "preset", name, "inside the package" if name == "tiny" else "--model " + name


def _hook_points(lens: "VisionLens") -> Iterator[Row]:
    """Each kind of hook point, tested in all layers at once."""
    from lens_multimodal import transformer
    from lens_multimodal.transformer.self_check import HookHasNoEffect, edited, read_only, self_check

    for names, check, good in (
        (edited(lens.model), self_check, "fires, edits reach the logits"),
        (read_only(lens.model), _read, "fires, read-only"),
    ):
        kinds: dict[str, list[str]] = {}
        for name in names:
            kinds.setdefault(re.sub(r"\d+", "<layer>", name), []).append(name)
        for kind, of_kind in kinds.items():
            try:
                check(lens.model, of_kind)
                state = good
            except (transformer.HookDidNotFire, HookHasNoEffect, ValueError) as error:
                state = f"does not work: {error}"
            yield "hook point", kind, state


def _read(model: "nn.Module", names: Sequence[str]) -> None:
    import torch

    from lens_multimodal import transformer

    with torch.no_grad(), transformer.capture(model, names):
        transformer.logits_of(model, torch.ones(1, 2, dtype=torch.long, device=transformer.device(model)))
