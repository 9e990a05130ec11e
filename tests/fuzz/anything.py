"""Strategies: what people pass by mistake, and what is right."""

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

N_LAYERS, D_MLP, N_HEADS, N_POS, D_VOCAB = 3, 40, 2, 14, 97
"""Of the random lens, nine image positions and some text."""


def mostly(good: st.SearchStrategy, *bad: st.SearchStrategy) -> st.SearchStrategy:
    """Right three times out of four, so that most cases get past the first check."""
    return st.integers(0, 3).flatmap(lambda draw: good if draw else st.one_of(*bad))


odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.just([]),
    st.just({}),
    st.just(object()),
    st.builds(lambda: torch.zeros(0)),
    st.builds(lambda: np.array(3)),
    st.builds(pd.DataFrame),
)

layer = st.integers(-2, N_LAYERS + 1)
neuron = st.integers(-2, D_MLP + 1)
good_neurons = st.lists(
    st.tuples(st.integers(0, N_LAYERS - 1), st.integers(0, D_MLP - 1)), min_size=1, max_size=6, unique=True
)
neurons = mostly(
    good_neurons | good_neurons.map(lambda pairs: pd.DataFrame(pairs, columns=["layer", "neuron"])),
    st.lists(st.tuples(layer, neuron), max_size=4),
    st.lists(st.tuples(layer, neuron, odd), max_size=2),
    st.lists(odd, max_size=3),
    st.dictionaries(layer, st.one_of(st.lists(neuron, max_size=3), odd), max_size=3),
    st.lists(st.tuples(odd, odd), max_size=3).map(lambda rows: pd.DataFrame(rows, columns=["layer", "neuron"])),
    odd,
)

position = st.integers(-2, N_POS + 3)
positions = mostly(
    st.none()
    | st.lists(st.integers(0, N_POS - 4), min_size=1, max_size=4, unique=True)
    | st.integers(0, N_POS - 4)
    | st.builds(slice, st.integers(0, 5), st.none() | st.integers(6, N_POS - 3)),
    st.lists(position, max_size=4),
    position,
    st.builds(slice, st.one_of(st.none(), position), st.one_of(st.none(), position), st.one_of(st.none(), position)),
    st.builds(range, position, position),
    arrays.arrays(np.bool_, arrays.array_shapes(min_dims=1, max_dims=3, max_side=N_POS)).map(torch.from_numpy),
    st.lists(odd, max_size=2),
    odd,
)

layers = mostly(
    st.none() | st.integers(0, N_LAYERS - 1) | st.lists(st.integers(0, N_LAYERS - 1), min_size=1, unique=True),
    layer,
    st.lists(layer, max_size=3),
    odd,
)
heads = mostly(
    st.lists(st.tuples(st.integers(0, N_LAYERS - 1), st.integers(0, N_HEADS - 1)), min_size=1, max_size=3, unique=True),
    st.lists(st.tuples(layer, st.integers(-1, N_HEADS)), max_size=3),
    odd,
)

good_pixels = arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4]))) | (
    arrays.arrays(np.float32, (5, 7, 3), elements=st.floats(0, 1, width=32))
)
pixels = mostly(
    good_pixels,
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int64, np.float32, np.float64, np.bool_, np.complex64, np.float16]),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6),
    ),
)


@st.composite
def images(draw) -> Image.Image:
    """PIL images of every mode and of sizes from a pixel to a strip."""
    mode = draw(
        st.sampled_from(["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16"])
    )
    size = draw(st.tuples(st.integers(0, 30), st.integers(0, 30)) | st.just((1, 3000)))
    image = Image.new(mode, size)
    if draw(st.booleans()):
        image.info["transparency"] = draw(st.sampled_from([0, 300, b"\x00", (0, 0, 0), None, "x"]))
    if draw(st.booleans()):
        image.getexif()[0x0112] = draw(st.integers(0, 65535))
    return image


pictures = mostly(pixels | pixels.map(torch.from_numpy) | images(), st.text(max_size=20), odd)
texts = mostly(
    st.sampled_from(["A picture of", " dog", " dog cat", ""]), st.text(st.characters(), max_size=12),
    st.sampled_from(["\n", "\x00", "<|endoftext|>"]),
)  # fmt: skip
