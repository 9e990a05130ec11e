"""The MLP neurons that turn an image into a word, with their image patches and their tokens."""

from torch import nn

from lens_multimodal.analysis.attribution.neuron_attribution import top_neurons
from lens_multimodal.analysis.decoding import decode_neurons
from lens_multimodal.analysis.neuron_table import NeuronTable
from lens_multimodal.arguments.positions import Positions
from lens_multimodal.image.layout import NO_PATCH
from lens_multimodal.prompt.image_prompt import ImagePrompt


def image_neurons(
    model: nn.Module,
    prompt: ImagePrompt,
    token: int,
    *,
    positions: Positions,
    top_k: int,
    score: str,
    reduce: str,
) -> NeuronTable:
    """The paper's ranking (sections 2.1 and 2.2) for a prompt of one row that ends where the token is predicted.

    Returns: as `VisionLens.neurons`.
    Raises: as `top_neurons`; ValueError for a prompt without an image.
    """
    spans = prompt.row(0).spans[0]
    if not spans:
        raise ValueError("this prompt holds no image, so no neuron can be attributed to one")
    found = top_neurons(model, prompt.tokens, token, prompt.at(positions), top_k=top_k, score=score, reduce=reduce)
    cells = {pos: span.image.cell(i) or NO_PATCH for span in spans for i, pos in enumerate(span.positions)}
    found["row"], found["col"] = ([cells.get(pos, NO_PATCH)[axis] for pos in found["pos"]] for axis in (0, 1))
    decoded = decode_neurons(model, found)[["layer", "neuron", "tokens", "interpretable", "whole_words"]]
    table = found.merge(decoded, on=["layer", "neuron"], how="left", validate="one_to_one")
    table.attrs.update(found.attrs)
    if isinstance(positions, str):
        table.attrs["positions"] = positions
    only = spans[0] if len(spans) == 1 else None
    return NeuronTable.of(table.drop(columns=["target", "rank"]), span=only)
