"""A neuron's input side: which tokens and which earlier neurons drive it."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.decoding.token_text import token_strings
from lens_multimodal.analysis.decoding.vocabulary_search import DEFAULT_BUDGET, search_vocabulary
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.units import Index, Neurons, read_layer, read_neurons
from lens_multimodal.precision import wide


@public
def driving_tokens(
    model: nn.Module,
    neurons: Neurons,
    *,
    top_k: int = 10,
    norm: bool = True,
    gate: bool = False,
    budget_bytes: int = DEFAULT_BUDGET,
) -> pd.DataFrame:
    """The tokens whose input embeddings excite a neuron most: dot products with its column of `W_in`.

    Args:
        norm: pass embeddings through the norm before the MLP, as the first layer sees them (position embeddings aside);
            False multiplies the bare embeddings. A decoder without such a norm (OLMo 2) reads them bare in both cases.
        gate: use the column of the gate, for models whose MLP has one (Llama).
    Returns: one row per neuron, ordered by layer: `layer`, `neuron`, `tokens`, `token_ids`, `weights` (without the
        neuron's bias).
    Raises: ValueError for a gate that the model does not have; and as `decode_neurons`.
    """
    rows = []
    d_vocab = transformer.shape(model).d_vocab
    with torch.no_grad():
        for layer, index in read_neurons(model, neurons).items():
            weights = transformer.w_gate(model, layer) if gate else transformer.w_in(model, layer)
            before = transformer.mlp_norm(model, layer) if norm else None

            def columns(start: int, stop: int, before: Any = before, place: torch.device = weights.device) -> Tensor:
                part = transformer.entering(model, slice(start, stop)).to(place)
                return wide(part if before is None else before(part[None])[0]).T

            found = search_vocabulary(
                weights.detach()[:, index].T.contiguous(),
                columns,
                d_vocab,
                top_k=top_k,
                budget_bytes=budget_bytes,
            )
            rows += [
                {
                    "layer": layer,
                    "neuron": neuron,
                    "tokens": tuple(token_strings(model, ids)),
                    "token_ids": tuple(ids),
                    "weights": tuple(values),
                }
                for neuron, ids, values in zip(
                    index.tolist(), found.tokens.tolist(), found.values.tolist(), strict=True
                )
            ]
    table = pd.DataFrame(rows)
    table.attrs.update(norm=norm, gate=gate, weight_processing=transformer.weight_processing(model))
    return table


@public
def upstream_neurons(model: nn.Module, layer: Index, neuron: Index, *, top_k: int = 20) -> pd.DataFrame:
    """The earlier neurons that write most along, or against, what a neuron reads.

    What a neuron writes is `transformer.written`. What it reads is its column of `W_in`, through the norm before the
    MLP but for that norm's division by its scale.

    Returns: columns `layer`, `neuron`, `cosine`, ordered by its size; empty for a neuron of layer 0.
    Raises: ValueError, TypeError for a neuron that does not exist.
    """
    layer = read_layer(model, layer)
    index = read_neurons(model, [(layer, neuron)], name="neuron")[layer]
    direction = nn.functional.normalize(transformer.read(model, layer, index)[0], dim=0)
    parts = []
    for earlier in range(layer):
        rows = wide(transformer.written(model, earlier))
        cosine = nn.functional.normalize(rows, dim=-1) @ direction.to(rows.device)
        found = cosine.abs().topk(min(top_k, len(cosine))).indices
        parts.append(pd.DataFrame({"layer": earlier, "neuron": found.tolist(), "cosine": cosine[found].cpu().numpy()}))
    if not parts:
        return pd.DataFrame({"layer": [], "neuron": [], "cosine": []})
    return pd.concat(parts).sort_values("cosine", key=abs, ascending=False).head(top_k).reset_index(drop=True)
