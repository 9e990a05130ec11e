"""`train`: fit a projection on captioned pictures."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_multimodal.cli import options
from lens_multimodal.cli.experiment_commands import read_settings

if TYPE_CHECKING:
    from lens_multimodal.data import CaptionedPicture, Shards
    from lens_multimodal.lens import VisionLens
    from lens_multimodal.train import FitSettings


def train(
    data: Annotated[
        Path, typer.Argument(help="COCO folder, folder of captioned pictures, or folder or file of .tar shards.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the projection, checkpoint and log.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures of one step over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the start; a cosine to zero.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, captions and dropout.")] = None,
    settings: Annotated[
        Path | None, typer.Option(help="JSON file with any of FitSettings' fields; options above override it.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="COCO only: which one, such as train2017.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start from a random map, not from the preset's or --projection's.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read pictures.")] = 4,
    model: options.Model = None,
    vision: options.Vision = None,
    projection: options.ProjectionFile = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Train the one linear map between an image encoder and a language model; everything else stays frozen.

    Interrupted, the same command continues from its checkpoint. The default settings are LiMBeR's.

    [bold]Examples[/bold]

    lens-multimodal train my_pictures/ --out run --steps 500 --batch-size 16

    lens-multimodal train coco/ --out run --model EleutherAI/gpt-j-6b --vision beit-large --fresh --device cuda

    accelerate launch -m lens_multimodal train 'cc3m/{00000..00331}.tar' --out run --settings limber.json
    """
    from lens_multimodal.train import batches_of, batches_of_stream, fit_projection

    changes = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    chosen = fit_settings(settings, changes)
    source = read_data(data, split=split)
    lens = _lens(fresh, chosen.seed, model=model, vision=vision, projection=projection, device=device, dtype=dtype)
    make: Any = batches_of if isinstance(source, list) else batches_of_stream
    batches = make(
        source,
        preprocessing=lens.vision.preprocessing,
        batch_size=chosen.batch_of_one_process(_n_processes()),
        seed=chosen.seed,
        workers=workers,
    )
    fit_projection(lens, batches, settings=chosen, folder=out)
    if options.is_first_process():
        typer.echo(f"wrote {out / 'projection.safetensors'} and {out / 'proj.ckpt'}")


def fit_settings(path: Path | None, changes: dict[str, Any]) -> "FitSettings":
    """The settings of a file, with those of the command line that were given.

    Raises: ValueError for unknown names, wrong types or numbers outside their range.
    """
    from lens_multimodal.train import FitSettings

    given = {} if path is None else read_settings(path)
    types: dict[str, Any] = {field.name: type(field.default) for field in fields(FitSettings)}
    unknown = sorted(set(given) - set(types))
    if unknown:
        raise ValueError(f"{str(path)!r} has unknown settings {', '.join(unknown)}; there are {', '.join(types)}")
    for name, value in given.items():
        accepted = (int, float) if types[name] is float else types[name]
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise ValueError(f"{str(path)!r}: {name} is {value!r}, expected {types[name].__name__}")
        given[name] = types[name](value)
    return FitSettings(**(given | {name: value for name, value in changes.items() if value is not None}))


def read_data(data: Path, *, split: str | None = None) -> "list[CaptionedPicture] | Shards":
    """Captioned pictures from whatever lies at a path: COCO, tar shards, or a folder with captions.

    Raises: FileNotFoundError, ValueError as the readers of `lens_multimodal.data`.
    """
    from lens_multimodal.data import read_coco, read_folder, read_shards

    if data.suffix == ".tar" or "{" in str(data) or (data.is_dir() and any(data.glob("*.tar"))):
        return read_shards(data)
    if (data / "annotations").is_dir() or (data / "captions.json").is_file():
        return read_coco(data, split=split, with_objects=False).captioned()
    return read_folder(data)


def _lens(
    fresh: bool,
    seed: int,
    *,
    model: str | None,
    vision: str | None,
    projection: Path | None,
    device: str | None,
    dtype: options.Precision | None,
) -> "VisionLens":
    import torch
    from torch import nn

    from lens_multimodal import presets
    from lens_multimodal.attach import attach_vision
    from lens_multimodal.transformer.loading import load_language_model

    own_parts = model is not None and presets.get(model) is None
    if not (fresh and own_parts and vision is not None and projection is None):
        lens = options.open_lens(model, vision=vision, projection=projection, device=device, dtype=dtype)
        if fresh and isinstance(lens.projection.linear, nn.Linear):
            torch.manual_seed(seed)
            lens.projection.linear.reset_parameters()
        return lens
    device = device or options.device_of_this_process()
    options.check_device(device)
    assert model is not None
    precision = options.torch_dtype(dtype)
    encoder = presets.load_vision(vision)
    language_model, tokenizer = load_language_model(model, device=device, dtype=precision)
    torch.manual_seed(seed)
    linear = nn.Linear(encoder.d_vision, language_model.config.hidden_size)  # type: ignore[union-attr,arg-type]
    return attach_vision(
        language_model, vision=encoder, projection=linear, tokenizer=tokenizer, device=device, dtype=precision
    )


def _n_processes() -> int:
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError("training needs accelerate: pip install 'lens-multimodal[train]'") from error
    return int(PartialState().num_processes)
