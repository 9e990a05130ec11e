"""Decoding: the tokens of neurons, soft prompts and the residual stream."""

from lens_multimodal.analysis.decoding.dictionary import is_interpretable, is_word, writes_whole_words
from lens_multimodal.analysis.decoding.logit_lens import LogitLens, logit_lens
from lens_multimodal.analysis.decoding.nearest_tokens import nearest_embeddings, unembed_tokens
from lens_multimodal.analysis.decoding.neuron_inputs import driving_tokens, upstream_neurons
from lens_multimodal.analysis.decoding.neuron_outputs import decode_layers, decode_neurons, neuron_directions
from lens_multimodal.analysis.decoding.token_text import token_strings
from lens_multimodal.analysis.decoding.vocabulary_search import TopTokens

__all__ = [
    "LogitLens",
    "TopTokens",
    "decode_layers",
    "decode_neurons",
    "driving_tokens",
    "is_interpretable",
    "is_word",
    "logit_lens",
    "nearest_embeddings",
    "neuron_directions",
    "token_strings",
    "unembed_tokens",
    "upstream_neurons",
    "writes_whole_words",
]
