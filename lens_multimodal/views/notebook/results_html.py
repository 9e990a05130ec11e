"""Results of analyses in a notebook: numbers first, as tables and maps of cells."""

from typing import Any

import torch
from torch import Tensor

from lens_multimodal.analysis import Effect, Faithfulness, LogitLens, ReceptiveField
from lens_multimodal.analysis.patching.patch_sweep import PatchSweep
from lens_multimodal.views.html import data_uri, fragment
from lens_multimodal.views.notebook.embedded_pictures import SIDE, field_alone, shown_size
from lens_multimodal.views.notebook.shown import html_of
from lens_multimodal.views.notebook.svg import MOST_CELLS, cells_svg, lines_svg
from lens_multimodal.views.plots.theme import PALETTE

MOST_ROWS = 20


@html_of.register
def logit_lens_html(result: LogitLens) -> str:
    """Probability of the first token at every depth and position; `plots.depth_map` shows words as well."""
    n_tokens, n_depths, n_positions = result.probability.shape
    shown = min(n_positions, max(1, MOST_CELLS // n_depths))
    values, rank, top = result.probability[0, :, :shown], result.rank[0], result.top_token
    positions = [str(pos) for pos in result.positions.tolist()[:shown]]
    svg = cells_svg(
        values,
        row_names=[str(depth) for depth in range(n_depths)],
        column_names=positions,
        signed=False,
        title=lambda depth, i: (
            f"depth {depth}, position {positions[i]}: probability {float(values[depth, i]):.3g}, rank "
            f"{int(rank[depth, i])}, top token {int(top[depth, i])}"
        ),
    )
    reached = int((result.first_depth()[0] >= 0).sum())
    rest = [f"{n_positions - shown} more positions"] if shown < n_positions else []
    rest += [f"{n_tokens - 1} more tokens"] if n_tokens > 1 else []
    note = (
        f"token {result.token_ids[0]}, depth upwards, positions across; the top token at {reached} of {n_positions} "
        f"positions at some depth; largest probability {float(result.probability[0].max()):.3g}"
    )
    return fragment("heat.html", title="Logit lens", note=note, map=svg, rest=", ".join(rest))


@html_of.register
def patch_sweep_html(result: PatchSweep) -> str:
    """The share recovered by each cell over the first two axes; a third axis is shown by its strongest cell."""
    values = result.recovered
    names = list(result.axes)
    if values.ndim == 1:
        values = values[None]
        row_name, row_labels, column_name = "", [""], names[0]
    else:
        row_name, row_labels, column_name = names[0], [str(label) for label in result.axes[names[0]]], names[1]
    flat = values.reshape(*values.shape[:2], -1)
    strongest = flat.gather(-1, torch.nan_to_num(flat).abs().argmax(-1, keepdim=True))[..., 0]
    column_labels = [str(label) for label in result.axes[column_name]]
    shown = min(len(column_labels), max(1, MOST_CELLS // len(row_labels)))
    svg = cells_svg(
        strongest[:, :shown],
        row_names=row_labels,
        column_names=column_labels[:shown],
        signed=True,
        title=lambda row, column: (
            f"{row_name} {row_labels[row]} {column_name} {column_labels[column]}: recovered "
            f"{float(strongest[row, column]):.3g}".strip()
        ),
    )
    note = (
        f"{result.site}: {' x '.join(names)}; target {result.clean:.4g} clean, {result.corrupted:.4g} corrupted; "
        f"orange restores the clean answer; correlation with attribution patching {result.correlation:.2f}"
    )
    rest = "each cell is the strongest along " + ", ".join(names[2:]) if len(names) > 2 else ""
    rest += f" {len(column_labels) - shown} more columns in .table()" if shown < len(column_labels) else ""
    return fragment("heat.html", title="Activation patching, clean into corrupted", note=note, map=svg, rest=rest)


@html_of.register
def receptive_field_html(result: ReceptiveField) -> str:
    """The activation with its receptive field outlined, without the picture (`plots.receptive_field_over_picture`)."""
    height, width = result.heat.shape
    seen = result.heat[~result.heat.isnan()]
    shown_width, shown_height = shown_size(width, height, side=SIDE)
    note = (
        f"activation {float(seen.min()):.3g} to {float(seen.max()):.3g}; outlined: above {result.threshold:.3g}, "
        f"{float(result.mask.float().mean()):.1%} of {width} x {height} pixels"
    )
    return fragment(
        "field.html", note=note, uri=data_uri(field_alone(result), side=SIDE), width=shown_width, height=shown_height
    )


@html_of.register
def effect_html(result: Effect) -> str:
    """Probability, rank and divergence of each prompt before and after."""
    rows = result.table().to_dict("records")
    largest = max([float(p) for p in _both(result.probability_before, result.probability_after)], default=0.0)
    mean = float(result.relative_probability_change.float().mean()) if len(rows) else float("nan")
    note = f"{len(rows)} prompt{'s' if len(rows) != 1 else ''}; mean change of the target's probability {mean:+.1%}"
    return fragment(
        "effect.html", note=note, rows=rows[:MOST_ROWS], scale=largest or 1.0, left_out=max(0, len(rows) - MOST_ROWS)
    )


@html_of.register
def faithfulness_html(result: Faithfulness) -> str:
    """The summary with its deletion and insertion curves."""
    scores = list(result.summary["score"])
    colours = {score: PALETTE[i % len(PALETTE)] for i, score in enumerate(scores)}
    rows: list[dict[Any, Any]] = result.summary.to_dict("records")
    curves = []
    for kind in ("deletion", "insertion"):
        of_kind = result.curves[result.curves["kind"] == kind]
        lines = []
        for score in scores:
            curve = of_kind[of_kind["score"] == score]
            lines.append((colours[score], curve["n_neurons"].tolist(), curve["value"].tolist()))
        curves.append({"title": f"{kind.capitalize()}: target by number of neurons", "svg": lines_svg(lines)})
    note = (
        f"target {result.target}, {len(result.neurons)} neurons: {result.clean_value:.4g} whole, "
        f"{result.all_ablated_value:.4g} with all of them ablated"
    )
    return fragment(
        "faithfulness.html",
        result=result,
        note=note,
        rows=[{**row, "colour": colours[row["score"]]} for row in rows],
        curves=curves,
    )


def _both(before: Tensor, after: Tensor) -> list[float]:
    return [*before.tolist(), *after.tolist()]
