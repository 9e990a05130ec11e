"""Every kind of figure, drawn from random numbers, and the numbers themselves."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from PIL import Image
from torch import Tensor

from lens_multimodal.analysis import ImageGeometry
from lens_multimodal.views import plots

GRID_H, GRID_W, WIDTH, HEIGHT = 2, 3, 30, 20
HOSTILE = "</script><b>&\u202e"


@dataclass(frozen=True)
class Drawn:
    """A figure and what it was drawn from."""

    figure: go.Figure
    values: Tensor


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def geometry(*, left: int = 0, top: int = 0) -> ImageGeometry:
    """An encoder that sees 24 x 16 pixels of the picture resized to 36 x 24, cropped by `left` and `top`."""
    return ImageGeometry(
        width=WIDTH, height=HEIGHT, resized_width=36, resized_height=24, left=left, top=top,
        input_width=24, input_height=16, grid_h=GRID_H, grid_w=GRID_W,
    )  # fmt: skip


def found() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": [0, 2, 2],
            "neuron": [0, 39, 7],
            "attribution": [0.5, -0.25, 0.125],
            "tokens": [(" dog", HOSTILE), (" cat",), (" sun", " sea")],
            "interpretable": [True, False, True],
        }
    )


def all_figures() -> dict[str, Drawn]:
    torch.manual_seed(0)
    by_patch = torch.randn(GRID_H, GRID_W)
    by_layer = torch.randn(3, GRID_H, GRID_W)
    attention = torch.rand(3, 5, GRID_H, GRID_W)
    heat = torch.rand(HEIGHT, WIDTH)
    depths = torch.rand(4, 5)
    heads = torch.randn(3, 2)
    pairs = torch.randn(2, 7)
    shares = np.random.default_rng(1).uniform(0, 1, (6, 2))
    names = ["<image:0,0>", "<image:0,1>", " a", " a", HOSTILE]
    table = found()
    return {
        "values over the picture": Drawn(plots.values_over_picture(picture(), by_patch, geometry()), by_patch),
        "layers over the picture": Drawn(
            plots.layers_over_picture(picture(), by_layer, geometry(), layers=[0, 4, 8]), by_layer
        ),
        "attention": Drawn(plots.attention_over_picture(picture(), attention, geometry()), attention),
        "receptive field": Drawn(plots.receptive_field_over_picture(picture(), heat, 0.9), heat),
        "depth map": Drawn(plots.depth_map(depths, position_names=names, token=HOSTILE), depths),
        "sweep map": Drawn(plots.sweep_map(by_layer[:, 0], layers=[1, 2, 3], column_names=["a", "b", "b"]), by_layer),
        "head map": Drawn(plots.head_map(heads, label="effect", signed=True, title=HOSTILE), heads),
        "layer histogram": Drawn(plots.layer_histogram([0, 2, 2], n_layers=3), torch.tensor([1, 0, 2])),
        "attribution scatter": Drawn(
            plots.attribution_scatter(table, n_layers=3, d_mlp=40), torch.tensor(table["attribution"].to_numpy())
        ),
        "ablation curve": Drawn(plots.ablation_curve([10, 100], {"top": [0.5, 0.25]}), torch.tensor([0.5, 0.25])),
        "ablation bands": Drawn(
            plots.ablation_bands([10, 100], {"top": shares, HOSTILE: shares}), torch.from_numpy(shares)
        ),
        "estimate scatter": Drawn(plots.estimate_scatter(pairs[0], pairs[1], labels=[HOSTILE] * 7), pairs),
    }
