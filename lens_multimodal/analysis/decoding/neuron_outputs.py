"""Decoding: the tokens that neurons write (paper section 2.2).

A neuron adds a vector to the residual stream: its row of `W_out`, in some families through a norm after the MLP
(`transformer.written`). Unembedded, `written[layer, neuron] @ W_U`, it gives every token a weight; the neuron's tokens
are those with the largest weights. The paper unembeds the vector as it is. With `final_norm` it first passes the final
norm's centring and weight, `((written - mean) * ln_final.w) @ W_U`: decoding a model with folded norms shows this, and
the ranking changes. The unembedding's bias is left out. It is the same for every neuron and would dominate the weights.
A model's own multiplier of logits (Cohere, Granite) is in the weights, its cap (Gemma 2) is not.

On a model with processed weights the rows themselves differ: each table records `weight_processing`.
"""

from collections.abc import Iterator

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.decoding.dictionary import TOKENS_CHECKED, is_interpretable, writes_whole_words
from lens_multimodal.analysis.decoding.token_text import rows_of_strings
from lens_multimodal.analysis.decoding.vocabulary_search import DEFAULT_BUDGET, TopTokens, search_vocabulary
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.units import Layers, Neurons, read_layers, read_neuron_pairs, read_neurons
from lens_multimodal.precision import wide


@public
def decode_neurons(
    model: nn.Module,
    neurons: Neurons,
    *,
    top_k: int = 10,
    final_norm: bool = False,
    probabilities: bool = False,
    budget_bytes: int = DEFAULT_BUDGET,
) -> pd.DataFrame:
    """The tokens that some neurons write.

    Args:
        neurons: in any form that `hooks.ablate` takes.
        final_norm: through the final norm's centring and scale; the paper's way is without.
        probabilities: weights as a softmax over the vocabulary instead of dot products.
    Returns: one row per neuron, ordered by layer: `layer`, `neuron`, `tokens` (tuple of strings, best first),
        `token_ids`, `weights`, `interpretable` (the paper's rule on the first 10 tokens), `whole_words` (a
        stricter one: `writes_whole_words`).
    Raises: ValueError, TypeError for neurons that do not exist or a bad `top_k`.
    """
    with torch.no_grad():
        parts = [
            _token_table(
                model,
                layer,
                index.tolist(),
                _search_unembedding(
                    model,
                    _written(model, layer, index, final_norm),
                    top_k=_at_least_for_rule(model, top_k),
                    probabilities=probabilities,
                    budget_bytes=budget_bytes,
                ),
                top_k,
            )
            for layer, index in read_neurons(model, neurons).items()
        ]
    table = pd.concat(parts, ignore_index=True)
    table.attrs.update(final_norm=final_norm, weight_processing=transformer.weight_processing(model))
    return table


@public
def neuron_directions(model: nn.Module, neurons: Neurons) -> Float[Tensor, "neuron d_model"]:
    """What each neuron adds to the residual stream per unit of activation: for steering, cosines and probes.

    A norm after the MLP (Gemma 2, OLMo 2) also divides by its scale, which depends on the prompt and is left out.

    Args: neurons: as `decode_neurons`; the rows come in the order given.
    Returns: float32 or wider, detached, on the device of the first neuron's layer.
    Raises: ValueError, TypeError for neurons that do not exist.
    """
    pairs = read_neuron_pairs(model, neurons)
    rows: dict[tuple[int, int], Tensor] = {}
    for layer, index in read_neurons(model, neurons).items():
        written = wide(transformer.written(model, layer, index))
        rows.update(zip([(layer, neuron) for neuron in index.tolist()], written, strict=True))
    return torch.stack([rows[pair].to(rows[pairs[0]].device) for pair in pairs])


@public
def decode_layers(
    model: nn.Module,
    layers: Layers = None,
    *,
    top_k: int = 10,
    final_norm: bool = False,
    probabilities: bool = False,
    budget_bytes: int = DEFAULT_BUDGET,
) -> Iterator[tuple[int, TopTokens]]:
    """The top tokens of every neuron, one layer at a time: `(layer, TopTokens)` with one row per neuron.

    Never builds `[d_mlp, d_vocab]`: working memory stays within `budget_bytes`, for GPT-J's 458,752 neurons too.
    """

    @torch.no_grad()
    def decoded(layer: int) -> TopTokens:
        rows = _written(model, layer, None, final_norm)
        return _search_unembedding(model, rows, top_k=top_k, probabilities=probabilities, budget_bytes=budget_bytes)

    return ((layer, decoded(layer)) for layer in read_layers(model, layers))


def _written(
    model: nn.Module, layer: int, neurons: Int[Tensor, " neuron"] | None, final_norm: bool
) -> Float[Tensor, "neuron d_model"]:
    rows = transformer.written(model, layer, neurons)
    return transformer.final_norm(model).carry(rows) if final_norm else rows


def _search_unembedding(
    model: nn.Module, vectors: Tensor, *, top_k: int, probabilities: bool, budget_bytes: int
) -> TopTokens:
    w_u = transformer.w_u(model)
    return search_vocabulary(
        vectors.to(w_u.device),
        lambda start, stop: transformer.unembedding(model, slice(start, stop)),
        w_u.shape[1],
        top_k=top_k,
        probabilities=probabilities,
        budget_bytes=budget_bytes,
    )


def _at_least_for_rule(model: nn.Module, top_k: int) -> int:
    return max(top_k, min(TOKENS_CHECKED, transformer.w_u(model).shape[1]))


def _token_table(model: nn.Module, layer: int, neurons: list[int], found: TopTokens, top_k: int) -> pd.DataFrame:
    ids = found.tokens.tolist()
    strings = [tuple(row) for row in rows_of_strings(model, ids)]
    return pd.DataFrame(
        {
            "layer": layer,
            "neuron": neurons,
            "tokens": [row[:top_k] for row in strings],
            "token_ids": [tuple(row[:top_k]) for row in ids],
            "weights": [tuple(row[:top_k]) for row in found.values.tolist()],
            "interpretable": [is_interpretable(row) for row in strings],
            "whole_words": [writes_whole_words(row) for row in strings],
        }
    )
