"""`train`: fit a projection on captioned pictures."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_multimodal.cli import options
from lens_multimodal.cli.experiment_commands import read_settings

if TYPE_CHECKING:
    from torch import nn

    from lens_multimodal.data import CaptionedPicture, Shards
    from lens_multimodal.lens import VisionLens
    from lens_multimodal.train import FitSettings


def train(
    data: Annotated[
        Path, typer.Argument(help="A COCO folder, a folder of captioned pictures, or .tar shards (a file or a folder).")
    ],
    out: Annotated[Path, options.output_folder("Folder for the projection, checkpoint and log.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures per step, over all processes.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Initial learning rate; it decays to zero along a cosine.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the order, the choice of captions, and dropout.")] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="A JSON file with fields of FitSettings. Options on the command line override it."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="COCO only: the split, such as train2017.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start from a random map instead of the preset's or --projection's.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read pictures.")] = 4,
    lens_options: options.LensOptions = options.TINY,
) -> None:
    """Train the linear map between an image encoder and a language model; everything else stays frozen.

    After an interruption, the same command continues from its checkpoint. The default settings are LiMBeR's.

    [bold]Examples[/bold]

    lens-multimodal train my_pictures/ --out run --steps 500 --batch-size 16

    lens-multimodal train coco/ --out run --model EleutherAI/gpt-j-6b --vision beit-large --fresh --device cuda

    accelerate launch -m lens_multimodal train 'cc3m/{00000..00331}.tar' --out run --settings limber.json
    """
    from lens_multimodal.train import batches_of, batches_of_stream, fit_projection

    changes = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    chosen = fit_settings(settings, changes)
    source = read_data(data, split=split)
    lens = _lens(lens_options, fresh=fresh, seed=chosen.seed)
    make: Any = batches_of if isinstance(source, list) else batches_of_stream
    batches = make(
        source,
        preprocessed=lens.images.preprocessed,
        batch_size=chosen.batch_of_one_process(_n_processes()),
        seed=chosen.seed,
        workers=workers,
    )
    fit_projection(lens, batches, settings=chosen, folder=out)
    if options.is_first_process():
        typer.echo(f"wrote {out / 'projection.safetensors'} and {out / 'proj.ckpt'}")


def fit_settings(path: Path | None, changes: dict[str, Any]) -> "FitSettings":
    """The settings of a file, overridden by those given on the command line.

    Raises: ValueError for unknown names, wrong types or numbers outside their range.
    """
    from lens_multimodal.train import FitSettings

    given = {} if path is None else read_settings(path)
    types: dict[str, Any] = {field.name: type(field.default) for field in fields(FitSettings)}
    unknown = sorted(set(given) - set(types))
    if unknown:
        raise ValueError(f"{str(path)!r} has unknown settings {', '.join(unknown)}; known are {', '.join(types)}")
    for name, value in given.items():
        accepted = (int, float) if types[name] is float else types[name]
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise ValueError(f"{str(path)!r}: {name} is {value!r}, expected {types[name].__name__}")
        given[name] = types[name](value)
    return FitSettings(**(given | {name: value for name, value in changes.items() if value is not None}))


def read_data(data: Path, *, split: str | None = None) -> "list[CaptionedPicture] | Shards":
    """Captioned pictures at a path: COCO, tar shards, or a folder with captions.

    Raises: FileNotFoundError and ValueError, as the readers of `lens_multimodal.data` do.
    """
    from lens_multimodal.data import read_coco, read_folder, read_shards

    if data.suffix == ".tar" or "{" in str(data) or (data.is_dir() and any(data.glob("*.tar"))):
        return read_shards(data)
    if (data / "annotations").is_dir() or (data / "captions.json").is_file():
        return read_coco(data, split=split, with_objects=False).captioned()
    return read_folder(data)


def _lens(given: options.LensOptions, *, fresh: bool, seed: int) -> "VisionLens":
    """The lens to train, with a new random map if `fresh`."""
    import torch
    from torch import nn

    from lens_multimodal import presets
    from lens_multimodal.attach import attach_vision
    from lens_multimodal.transformer.loading import load_language_model

    own_model = given.model is not None and presets.get(given.model) is None
    if not (fresh and own_model and given.vision is not None and given.projection is None):
        lens = given.open()
        if fresh:
            torch.manual_seed(seed)
            _reset(lens.images.projector)
        return lens
    assert given.model is not None
    device, dtype = given.checked_device(), given.torch_dtype
    encoder = presets.load_vision(given.vision)
    model, tokenizer = load_language_model(given.model, device=device, dtype=dtype)
    torch.manual_seed(seed)
    linear = nn.Linear(encoder.d_vision, model.config.hidden_size)  # type: ignore[union-attr,arg-type]
    return attach_vision(model, vision=encoder, projection=linear, tokenizer=tokenizer, device=device, dtype=dtype)


def _reset(projector: "nn.Module") -> None:
    """Draw all weights anew. Raises: ValueError for layers that do not say how."""
    layers = [layer for layer in projector.modules() if any(True for _ in layer.parameters(recurse=False))]
    lacking = sorted({type(layer).__name__ for layer in layers if not hasattr(layer, "reset_parameters")})
    if lacking:
        raise ValueError(
            f"--fresh cannot draw the weights of this {type(projector).__name__} anew ({', '.join(lacking)} have no "
            f"reset_parameters): leave it out to start from the model's own projector"
        )
    for layer in layers:
        layer.reset_parameters()  # type: ignore[operator]


def _n_processes() -> int:
    from accelerate import PartialState

    return int(PartialState().num_processes)
