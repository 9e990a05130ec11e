"""The tables of an atlas: Parquet files whose columns say what they hold."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lens_multimodal.analysis.decoding import decode_neurons, driving_tokens
from lens_multimodal.atlas.across_inputs import recurrence_table
from lens_multimodal.atlas.atlas_reading import TABLES
from lens_multimodal.atlas.chunk_pass import Run
from lens_multimodal.atlas.layer_tally import LONGEST, NO_PICTURE, SHARE, LayerTally
from lens_multimodal.atlas.selectivity_measures import Measures, measures, p_values
from lens_multimodal.atlas.state import State, all_moments, read_thresholds
from lens_multimodal.files import write_atomically
from lens_multimodal.image.geometry import Box
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.runs.opened_pictures import layout_of

N_WORDS = 10
PER_NEURON, PER_CONCEPT = 5, 50
"""Concepts listed for a neuron, and neurons listed for a concept."""

NEURON = {"layer": "layer, from 0", "neuron": "index among the layer's MLP neurons, from 0"}

COLUMNS: dict[str, dict[str, str]] = {
    "neurons": {
        **NEURON,
        "n_patches": "image patches that were counted",
        "active": "share of the image patches with an activation above 0",
        "mean": "mean activation over image patches",
        "std": "standard deviation over image patches",
        "max": "largest activation",
        "threshold": "quantile of the activation above which the neuron is on",
        "on": "share of the image patches where it is on",
        "words": "tokens that it writes, best first",
        "interpretable": "whether 7 of its first 10 words are English words",
        "driven_by": "tokens whose embeddings drive it most, best first",
        "category": "category with the largest intersection over union; none without objects",
        "iou": "that intersection over union",
        "average_precision": "average precision of the activation for that category, over image patches",
        "iou_permuted": "largest intersection over union with the segmentations of other pictures",
        "p": "share of all neurons whose iou_permuted is at least iou",
        "found_for": "nouns for which `reproduce` found it; empty without such a run",
        "n_found": "how often it was found",
        "attribution": "mean contribution to the logits of these nouns",
        "n_ablated": "on how many of these nouns its ablation was measured",
        "ablation": "mean loss of their logits when it alone is set to zero at the image positions",
    },
    "patches": {
        **NEURON,
        "rank": "0 for the picture with the largest activation",
        "activation": "largest activation over the picture's image patches",
        "image_id": "id of the picture",
        "file": "name of the picture's file",
        "width": "of the picture, in pixels",
        "height": "of the picture, in pixels",
        "image_pos": "image position that shows the image patch, from 0 within the image",
        "patch_row": "row of the image patch in its grid, from the top",
        "patch_col": "column of the image patch in its grid, from the left",
        "left": "edge of the image patch in the picture, in pixels",
        "top": "the same",
        "right": "the same",
        "bottom": "the same",
    },
    "concepts": {
        "category": "name",
        "rank": "0 for the neuron with the largest intersection over union",
        **NEURON,
        "iou": "intersection over union where the neuron is on",
        "average_precision": "over image patches",
        "iou_even": "intersection over union over pictures at even places of the random order",
        "iou_odd": "the same at odd places",
        "recurrence_even": "share of the category's pictures at even places where the neuron is on within the category",
        "recurrence_odd": "the same at odd places",
    },
    "neuron_concepts": {
        **NEURON,
        "rank": "0 for the category with the largest intersection over union",
        "category": "name",
        "iou": "intersection over union",
        "average_precision": "over image patches",
    },
    "categories": {
        "category": "name",
        "pictures": "pictures with an image patch at least half covered by it",
        "area": "area that it covers in total, in image patches",
        "share": "its share of the area of all image patches",
    },
    "recurrence": {
        "category": "name",
        "n_neurons": "neurons found on the pictures at even places",
        "pictures": "pictures of the category at odd places",
        "recurrence": "mean share of these pictures where a found neuron is on within the category",
        "random": "the same of random neurons of the same layers, mean over draws",
        "random_high": "97.5 % quantile over draws",
        "other_concepts": "the same of the neurons found for the other categories, mean over them",
        "p": "share of draws that recur as often as the found neurons",
    },
}
"""Every table, its columns and what they hold; also written into the files."""


def write_tables(run: Run, home: Path, state: State, *, found: pd.DataFrame | None) -> None:
    """Write all tables; they appear together or not at all.

    Args: found: `layer`, `neuron` and the last five columns of `neurons`; None where nothing was found.
    Raises: ValueError if no picture could be read.
    """
    if not int(state.n_pictures.sum()):
        raise ValueError(f"none of the {len(run.order)} pictures can be read; the first: {state.failed[0]['error']}")
    thresholds = read_thresholds(home)
    assert thresholds is not None
    n_patches = int(state.n_patches)
    of_layers: dict[int, Measures] = {}
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    for layer, tally in state.layers.items():
        own = measures(tally, on=run.settings.on, parts=state.parts, pictures=state.pictures, n_patches=n_patches)
        of_layers[layer] = own
        threshold = thresholds[layer][run.settings.on]
        sums = all_moments(home, layer)
        tables["neurons"].append(_neurons(run, layer, tally, own, sums, threshold, n_patches))
        tables["patches"].append(_patches(run, layer, tally))
        tables["neuron_concepts"].append(_neuron_concepts(run.categories, layer, own))
    complete = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items() if parts}
    complete["neurons"] = _with_controls(complete["neurons"], _nothing_found() if found is None else found)
    complete["concepts"] = _concepts(run.categories, of_layers)
    complete["categories"] = _categories(run.categories, state, n_patches)
    layer_of = np.repeat(list(of_layers), run.lens.shape.d_mlp)
    complete["recurrence"] = recurrence_table(
        torch.cat([own.iou_halves[0] for own in of_layers.values()]).numpy(),
        torch.cat([own.recurrence[1] for own in of_layers.values()]).numpy(),
        layer_of,
        list(run.categories),
        state.pictures.numpy(),
        seed=run.settings.seed,
    )
    with write_atomically(home / TABLES, durable=True) as folder:
        folder.mkdir()
        for name, columns in COLUMNS.items():
            _write(folder / f"{name}.parquet", complete[name][list(columns)], columns)
        (folder / "failed.json").write_text(json.dumps(state.failed, ensure_ascii=False), encoding="utf-8")


def _write(path: Path, table: pd.DataFrame, columns: Mapping[str, str]) -> None:
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    described = [field.with_metadata({"description": columns[field.name]}) for field in arrow.schema]
    pq.write_table(arrow.cast(pa.schema(described)), path, compression="zstd")


def _neurons(
    run: Run, layer: int, tally: LayerTally, own: Measures, sums: Tensor, threshold: Tensor, n_patches: int
) -> pd.DataFrame:
    model = run.lens.model
    every = [(layer, neuron) for neuron in range(len(tally.positive))]
    written, driving = decode_neurons(model, every, top_k=N_WORDS), driving_tokens(model, every, top_k=N_WORDS)
    mean = sums[0] / n_patches
    table = {
        "layer": layer,
        "neuron": range(len(every)),
        "n_patches": n_patches,
        "active": (tally.positive / n_patches).numpy(),
        "mean": mean.numpy(),
        "std": (sums[1] / n_patches - mean.square()).clamp(min=0).sqrt().numpy(),
        "max": tally.top_value[:, 0].numpy(),
        "threshold": threshold.float().numpy(),
        "on": (tally.above[run.settings.on] / n_patches).numpy(),
        "words": [list(words) for words in written["tokens"]],
        "interpretable": written["interpretable"].to_numpy(),
        "driven_by": [list(words) for words in driving["tokens"]],
        "category": None,
        "iou": np.nan,
        "average_precision": np.nan,
        "iou_permuted": np.nan,
    }
    if run.categories:
        best = own.iou.nan_to_num(nan=-1).max(dim=1)
        rows = torch.arange(len(best.indices))
        table["category"] = [run.categories[i] for i in best.indices.tolist()]
        table["iou"] = best.values.numpy()
        table["average_precision"] = own.average_precision[rows, best.indices].numpy()
        table["iou_permuted"] = own.iou_permuted.nan_to_num(nan=0).amax(dim=1).numpy()
    return pd.DataFrame(table)


def _with_controls(neurons: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    known = neurons["iou"].notna().all() and len(neurons)
    p = p_values(neurons["iou"].to_numpy(), neurons["iou_permuted"].to_numpy()) if known else np.nan
    table = neurons.assign(p=p).merge(found, on=["layer", "neuron"], how="left")
    counts = {name: table[name].fillna(0).astype("int64") for name in ("n_found", "n_ablated")}
    table = table.assign(**counts)
    table["found_for"] = [nouns if isinstance(nouns, list) else [] for nouns in table["found_for"]]
    return table


def _nothing_found() -> pd.DataFrame:
    kinds = {"found_for": "object", "n_found": "float64", "attribution": "float64"}
    kinds |= {"layer": "int64", "neuron": "int64", "n_ablated": "float64", "ablation": "float64"}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})


def _patches(run: Run, layer: int, tally: LayerTally) -> pd.DataFrame:
    neuron, rank = np.nonzero((tally.top_patch != NO_PICTURE).numpy())
    code = tally.top_patch.numpy()[neuron, rank]
    place, image_pos = code // LONGEST, code % LONGEST
    ids, widths, heights = (np.array([getattr(s, name) for s in run.order]) for name in ("id", "width", "height"))
    files = np.array([s.path.name for s in run.order], dtype=object)
    patches = _image_patches(run, zip(place.tolist(), image_pos.tolist(), strict=True))
    return pd.DataFrame(
        {
            "layer": layer,
            "neuron": neuron,
            "rank": rank,
            "activation": tally.top_value.numpy()[neuron, rank],
            "image_id": ids[place],
            "file": files[place],
            "width": widths[place],
            "height": heights[place],
            "image_pos": image_pos,
            "patch_row": [row for row, _, _ in patches],
            "patch_col": [col for _, col, _ in patches],
            **{name: [getattr(box, name) for *_, box in patches] for name in ("left", "top", "right", "bottom")},
        }
    )


def _image_patches(run: Run, wanted: Iterable[tuple[int, int]]) -> list[tuple[int, int, Box]]:
    """Row, column and box of image positions. Args: wanted: place of the picture in the run, and position."""
    layouts: dict[int, ImageLayout] = {}
    known: dict[tuple[int, int], tuple[int, int, Box]] = {}
    found = []
    for place, index in wanted:
        if place not in layouts:
            layouts[place] = layout_of(run.order[place], run.lens.images)
        if (place, index) not in known:
            cell, box = layouts[place].place(index), layouts[place].box(index)
            assert cell is not None
            assert box is not None
            known[place, index] = *cell[1:], box
        found.append(known[place, index])
    return found


def _neuron_concepts(categories: Sequence[str], layer: int, own: Measures) -> pd.DataFrame:
    count = min(PER_NEURON, len(categories))
    order = own.iou.nan_to_num(nan=-1).argsort(dim=1, descending=True, stable=True)[:, :count]
    flat = order.flatten()
    neuron = torch.arange(len(order)).repeat_interleave(count)
    return pd.DataFrame(
        {
            "layer": layer,
            "neuron": neuron.numpy(),
            "rank": np.tile(np.arange(count), len(order)),
            "category": np.array([*categories, ""], dtype=object)[flat.numpy()],
            "iou": own.iou[neuron, flat].numpy(),
            "average_precision": own.average_precision[neuron, flat].numpy(),
        }
    )


def _concepts(categories: Sequence[str], of_layers: Mapping[int, Measures]) -> pd.DataFrame:
    layers = np.array(list(of_layers))
    joined = {
        "iou": torch.cat([own.iou for own in of_layers.values()]),
        "average_precision": torch.cat([own.average_precision for own in of_layers.values()]),
        "iou_even": torch.cat([own.iou_halves[0] for own in of_layers.values()]),
        "iou_odd": torch.cat([own.iou_halves[1] for own in of_layers.values()]),
        "recurrence_even": torch.cat([own.recurrence[0] for own in of_layers.values()]),
        "recurrence_odd": torch.cat([own.recurrence[1] for own in of_layers.values()]),
    }
    d_mlp = len(joined["iou"]) // len(layers)
    parts = []
    for column, category in enumerate(categories):
        best = joined["iou"][:, column].nan_to_num(nan=-1).argsort(descending=True, stable=True)[:PER_CONCEPT]
        values: dict[str, Any] = {name: own[best, column].numpy() for name, own in joined.items()}
        place = {"layer": layers[best.numpy() // d_mlp], "neuron": best.numpy() % d_mlp}
        parts.append(pd.DataFrame({"category": category, "rank": range(len(best)), **place, **values}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS["concepts"]))


def _categories(categories: Sequence[str], state: State, n_patches: int) -> pd.DataFrame:
    area = state.parts.sum(0).double().numpy() / SHARE
    return pd.DataFrame(
        {"category": categories, "pictures": state.pictures.sum(0).numpy(), "area": area, "share": area / n_patches}
    )
