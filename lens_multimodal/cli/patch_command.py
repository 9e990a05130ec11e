"""`patch`: activation patching between two pictures."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lens_multimodal.cli import options, picture_sources


class Site(str, Enum):
    """The activation that is copied from one run into the other."""

    resid_pre = "resid_pre"
    mlp_out = "mlp_out"
    attn_out = "attn_out"
    heads = "heads"


def patch(
    clean: Annotated[Path, typer.Argument(help="The picture to copy activations from.")],
    corrupted: Annotated[Path, typer.Argument(help="The picture to copy them into.")],
    word: options.Word,
    text: options.Before = None,
    prepend_bos: options.PrependBos = None,
    site: Annotated[Site, typer.Option(help="The activation to copy.")] = Site.resid_pre,
    layers: Annotated[str | None, typer.Option(help="Layers, such as 0,3-5. Default: all.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Patched runs per batch.")] = 32,
    lens_options: options.LensOptions = options.TINY,
    output: options.OutputOptions = options.SCREEN,
) -> None:
    """Copy single activations from the clean picture's run into the corrupted one's; report which restore the word.

    `recovered` is 0 where nothing changed and 1 where the word's logit equals that of the clean picture. `estimate`
    is attribution patching.

    [bold]Examples[/bold]

    lens-multimodal patch dog.png cat.png --word dog

    lens-multimodal patch dog.png cat.png --word dog --text "A picture of a" --site mlp_out --out sweep.parquet

    lens-multimodal patch dog.png cat.png --word dog --site heads --layers 0-2 --out sweep.html
    """
    chosen = options.layer_numbers(layers)
    picture_sources.check_files(clean, corrupted)

    from lens_multimodal import analysis

    lens = lens_options.open()
    target = options.as_token(word)
    if text is None:
        own = options.prompt_for(lens, clean, word, text, prepend_bos)
        text = lens.text.decode(own.tokens[0, own.text_pos[0]].tolist())
    prompt = lens.prompt([clean, corrupted], text, prepend_bos=prepend_bos)
    run = {
        Site.resid_pre: analysis.act_patch_resid_pre,
        Site.mlp_out: analysis.act_patch_mlp_out,
        Site.attn_out: analysis.act_patch_attn_out,
        Site.heads: analysis.act_patch_heads,
    }[site]
    sweep = run(lens.model, prompt.tokens[:1], prompt.tokens[1:], target, layers=chosen, batch_size=batch_size)
    if sweep.clean == sweep.corrupted:
        raise ValueError(
            f"the logit of {word!r} is {sweep.clean:.4g} for both {clean} and {corrupted}, so there is no difference "
            f"to recover: give two pictures that the model sees differently"
        )
    table = sweep.table()
    if "pos" in table:
        names = lens.to_str_tokens(prompt.row(0))
        table.insert(table.columns.get_loc("pos") + 1, "token", [names[pos] for pos in table["pos"]])
    title = (
        f"{site.value} of {clean} into {corrupted}, logit of {word!r}: {sweep.clean:.4g} clean, "
        f"{sweep.corrupted:.4g} corrupted"
    )

    def page(title: str) -> str:
        # Imported here, because only a page needs plotly.
        from lens_multimodal.image.pictures import as_picture
        from lens_multimodal.views.command_pages import patch_page

        names = lens.to_str_tokens(prompt.row(0)) if "pos" in table else [str(head) for head in sweep.axes["head"]]
        return patch_page(
            title, sweep, table=table, names=names, clean=as_picture(clean), corrupted=as_picture(corrupted)
        )

    output.write(table, title=title, largest="recovered", page=page)
