"""What neurons write, kept for a whole run: each neuron is decoded once in a process, however many pictures find it."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from torch import nn

from lens_multimodal import transformer
from lens_multimodal.analysis import decode_neurons
from lens_multimodal.analysis.decoding.dictionary import TOKENS_CHECKED
from lens_multimodal.analysis.decoding.token_text import token_strings
from lens_multimodal.experiments.shared.nouns import first_words, said

NOT_DECODED = -1


@dataclass(kw_only=True, eq=False)
class NeuronWords:
    """The tokens of the neurons of one model. Its size is fixed: 41 bytes for every neuron, decoded or not."""

    model: nn.Module
    _ids: Int[np.ndarray, "neuron rank"] = field(init=False, repr=False)
    _interpretable: Bool[np.ndarray, " neuron"] = field(init=False, repr=False)
    _said: dict[int, str] = field(default_factory=dict, init=False, repr=False)
    """What each token would say, by token id; at most one entry for each token of the vocabulary."""

    def __post_init__(self) -> None:
        n_neurons = transformer.shape(self.model).n_neurons
        self._ids = np.full((n_neurons, TOKENS_CHECKED), NOT_DECODED, dtype=np.int32)
        self._interpretable = np.zeros(n_neurons, dtype=bool)

    def decode(self, neurons: pd.DataFrame) -> None:
        """Decode those neurons of a table that are not known yet, all together."""
        unknown = self._ids[self._rows(neurons), 0] == NOT_DECODED
        if unknown.any():
            new = neurons[["layer", "neuron"]][unknown].drop_duplicates()
            found = decode_neurons(self.model, new, top_k=TOKENS_CHECKED)
            rows = self._rows(found)
            self._ids[rows] = np.array(found["token_ids"].tolist(), dtype=np.int32)
            self._interpretable[rows] = found["interpretable"].to_numpy()

    def interpretable(self, neurons: pd.DataFrame) -> Bool[np.ndarray, " neuron"]:
        """Whether each neuron of a table counts as interpretable."""
        return np.asarray(self._interpretable[self._known(neurons)])

    def saying(self, neurons: pd.DataFrame, names: Collection[str]) -> Bool[np.ndarray, " neuron"]:
        """Whether each neuron of a table has a token that says one of some nouns, as `nouns.says` takes it."""
        ids, wanted = self._ids[self._known(neurons)], first_words(names)
        different, place = np.unique(ids, return_inverse=True)
        new = [token for token in different.tolist() if token not in self._said]
        self._said |= zip(new, map(said, token_strings(self.model, new)), strict=True)
        hits = np.array([self._said[token] in wanted for token in different.tolist()], dtype=bool)
        return np.asarray(hits[place.reshape(ids.shape)].any(axis=1))

    def _known(self, neurons: pd.DataFrame) -> Int[np.ndarray, " neuron"]:
        """Where the neurons are kept, decoded."""
        self.decode(neurons)
        return self._rows(neurons)

    def _rows(self, neurons: pd.DataFrame) -> Int[np.ndarray, " neuron"]:
        return neurons["layer"].to_numpy() * transformer.shape(self.model).d_mlp + neurons["neuron"].to_numpy()
