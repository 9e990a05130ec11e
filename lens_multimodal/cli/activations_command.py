"""`activations`: store activations of a whole data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_multimodal.cli import options

if TYPE_CHECKING:
    from lens_multimodal.data import Scene

Data = Annotated[Path, typer.Option(help="A folder in COCO's format, or a folder of pictures.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only this many pictures, drawn at random.")]
ForPictures = Annotated[
    int | None, typer.Option(min=1, help="With --estimate: plan for a data set of this many pictures like these.")
]


def activations(
    data: Data,
    at: Annotated[
        list[str], typer.Option(help="A hook point, such as blocks.5.mlp.hook_post. May be repeated.", metavar="HOOK")
    ],
    out: Annotated[Path, options.output_folder("Folder for the shards.")] = Path("out/activations"),
    positions: Annotated[
        str, typer.Option(help="image, objects (patches that an object covers), text, caption, or all.")
    ] = "image",
    category: Annotated[
        list[str] | None, typer.Option(help="With --positions objects: a category that counts. May be repeated.")
    ] = None,
    covered: Annotated[
        float, typer.Option(help="With --positions objects: the least share of a patch that a category covers.")
    ] = 0.5,
    text: options.Text = None,
    store_dtype: Annotated[
        options.Precision | None, typer.Option(help="Precision of the stored numbers. Default: the model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in one forward pass.")] = 32,
    pictures_per_shard: Annotated[int, typer.Option(min=1, help="Pictures in one file.")] = 256,
    limit: Limit = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say size and time, and write nothing.")] = False,
    for_pictures: ForPictures = None,
    lens_options: options.LensOptions = options.TINY,
) -> None:
    """Store activations of every picture of a data set. After an interruption, the same command continues.

    [bold]Examples[/bold]

    lens-multimodal activations --data photos/ --at blocks.3.hook_resid_post --estimate

    lens-multimodal activations --data coco --at blocks.5.mlp.hook_post --positions objects --category dog --out dogs

    accelerate launch -m lens_multimodal activations --data coco --at blocks.14.hook_resid_post --store-dtype bfloat16
    """
    from lens_multimodal import store
    from lens_multimodal.prompt.image_prompt import PROMPT

    scenes = scenes_from(data, limit=limit)
    lens = lens_options.open()
    what = {
        "at": at,
        "positions": positions,
        "categories": category or None,
        "covered": covered,
        "text": PROMPT if text is None else text,
        "dtype": None if store_dtype is None else store_dtype.value,
        "batch_size": batch_size,
    }
    if estimate:
        typer.echo(store.estimate(lens, scenes, out=out, n_pictures=for_pictures, **what))  # type: ignore[arg-type]
        return
    written = store.write_activations(
        lens,
        scenes,
        out,
        pictures_per_shard=pictures_per_shard,
        **what,  # type: ignore[arg-type]
    )
    if options.is_first_process():
        for failure in written.failed:
            typer.echo(f"warning: {failure['file']}: {failure['error']}", err=True)
        typer.echo(f"{len(written):,} rows: {out}")


def scenes_from(folder: Path, *, limit: int | None) -> "Sequence[Scene]":
    """The scenes of a folder in COCO's format, or the pictures of any other folder.

    Raises: as `data.scenes_in`.
    """
    from lens_multimodal.data import scenes_in
    from lens_multimodal.runs.picture_order import in_order

    scenes = scenes_in(folder)
    return scenes if limit is None else in_order(scenes, 0)[:limit]
