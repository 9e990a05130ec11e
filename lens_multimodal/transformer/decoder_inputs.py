"""What a vision-language model computes for its text decoder besides embeddings: attention masks and position ids.

Gemma 3 and PaliGemma let image positions attend to later ones, Qwen2-VL numbers them by row and column and continues
from there in cached decoding. Only the model's own forward pass knows how. So that pass is run, on a twin of the model
with a listener in the decoder's place. The twin shares every weight and keeps what the pass leaves behind, such as
Qwen's `rope_deltas`, so the model itself stays as it is.
"""

import copy
from collections.abc import Mapping
from inspect import signature
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn


def shallow(module: Any) -> Any:
    """A copy of the module with its own dictionary of children."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


WITH_EVERY_PROMPT = ("input_ids", "attention_mask", "pixel_values", "labels")
"""What a processor writes for every model."""


def along_with_images(model: Any, written: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a vision-language model's processor, other than pixels, that its forward pass takes."""
    taken = signature(type(getattr(model, "model", model)).forward).parameters
    return {name: value for name, value in written.items() if name in taken and name not in WITH_EVERY_PROMPT}


class DecoderInputs:
    """Masks and positions of one batch of rows: first for the whole prompt, then for each cached step.

    Args: model: a Hugging Face vision-language model. Its decoder may be part of a bridge.
    """

    def __init__(self, model: Any) -> None:
        inner, decoder = getattr(model, "model", model), model.get_decoder()
        self._listener = _Listener(decoder.get_input_embeddings())
        self._twin = shallow(inner)
        (name,) = (name for name, child in inner.named_children() if child is decoder)
        self._twin._modules[name] = self._listener
        # Without a mask, other implementations of attention would be causal by default.
        self._twin.config = copy.deepcopy(inner.config)
        self._twin.config.get_text_config()._attn_implementation = "eager"

    def of(
        self,
        ids: Int[Tensor, "batch pos"],
        *,
        attention_mask: Int[Tensor, "batch all_pos"] | None,
        cache: Any,
        arguments: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """The `attention_mask` and `position_ids` that the decoder is called with.

        Args:
            ids: with the model's image token at image positions.
            cache: of the positions before these; it is only read.
            arguments: what the model takes along with images, by the names of its forward pass.
        """
        # Not by a call, so that no hook of the user's sees this pass.
        type(self._twin).forward(
            self._twin, input_ids=ids, attention_mask=attention_mask, past_key_values=cache, **arguments
        )
        given, self._listener.given = self._listener.given, {}
        found = {name: given[name] for name in ("attention_mask", "position_ids") if given.get(name) is not None}
        if isinstance(positions := found.get("position_ids"), Tensor):
            # With a cache, Qwen numbers all positions that the mask covers.
            found["position_ids"] = positions[..., -ids.shape[1] :]
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "DecoderInputs":
        return self


class _Listener(nn.Module):
    """Takes a decoder's place and keeps what it is called with."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}
        self.embed_tokens = _Shapes(next(embedding.parameters()))

    def forward(self, **given: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        self.given = given
        return BaseModelOutputWithPast(last_hidden_state=given["inputs_embeds"])

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens


class _Shapes(nn.Module):
    """Empty embeddings of the right shape, precision and device."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self._zero = table.new_zeros(())
        self._d_model = table.shape[1]

    def forward(self, ids: Tensor) -> Tensor:
        return self._zero.expand(*ids.shape, self._d_model)
