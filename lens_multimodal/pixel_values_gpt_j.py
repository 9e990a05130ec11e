"""A GPT-J that takes `pixel_values`, as a Hugging Face model, and its adapter for TransformerLens' registry.

`attach_vision` adds images to a TransformerLens model from outside. Here the same three parts are one model whose
`forward` takes `pixel_values`, as TransformerLens' LLaVA does, so the encoder and the projection have hook points:
`vision_encoder.hook_in`, `vision_encoder.encoder_layers.0.hook_out`, ..., `vision_projection.hook_out`. In the tokens,
an image is a run of one placeholder id. `hook_embed` sees the placeholders, `blocks.0.hook_resid_pre` the image.
"""

import copy
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import init_empty_weights
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.supported_architectures.gptj import GptjArchitectureAdapter
from transformers import GPTJForCausalLM

from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.prompt.projection import Projection
from lens_multimodal.transformer.to_hugging_face import to_hugging_face

ARCHITECTURE = "GPTJWithVisionForCausalLM"
"""The name in TransformerLens' registry, which finds the adapter through this package's entry point."""


@runtime_checkable
class Trio(Protocol):
    """The parts of a lens."""

    model: nn.Module
    vision: VisionEncoder
    projection: Projection
    tokenizer: Any


class GPTJWithVisionForCausalLM(GPTJForCausalLM):
    """GPT-J whose `forward` and `generate` take `pixel_values` for the placeholder ids among `input_ids`."""

    vision_encoder: VisionEncoder
    vision_projection: Projection

    @property
    def image_token_id(self) -> int:
        """The placeholder: the first id after the vocabulary."""
        return int(self.config.vocab_size)

    @property
    def n_image_pos(self) -> int:
        """Number of placeholders for one picture."""
        return int(self.config.n_image_pos)

    def with_images(self, input_ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch image_and_pos"]:
        """`input_ids` with the placeholders of one picture in front of each row."""
        placeholders = input_ids.new_full((len(input_ids), self.n_image_pos), self.image_token_id)
        return torch.cat([placeholders, input_ids], dim=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """GPT-J's forward pass; the pictures' vectors replace the placeholders row by row.

        Raises: ValueError if pictures and placeholders do not match.
        """
        if input_ids is None or not self._holds_images(input_ids):
            if pixel_values is not None:
                raise ValueError(
                    f"got pixel_values but no placeholder {self.image_token_id} among the tokens; "
                    f"with_images(input_ids) puts one picture in front of each row"
                )
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        embeds = self._embed(input_ids, pixel_values)
        return super().forward(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, *args: Any, pixel_values: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Pictures enter with the prompt; cached steps hold no placeholder."""
        prepare: Any = super().prepare_inputs_for_generation  # type: ignore[misc]
        inputs: dict[str, Any] = prepare(input_ids, *args, **kwargs)
        if inputs.get("input_ids") is not None and self._holds_images(inputs["input_ids"]):
            inputs["pixel_values"] = pixel_values
        return inputs

    def _holds_images(self, input_ids: Tensor) -> bool:
        return bool((input_ids == self.image_token_id).any())

    def _embed(self, input_ids: Tensor, pixel_values: Tensor | None) -> Float[Tensor, "batch pos d_model"]:
        image = input_ids == self.image_token_id
        n_pictures = 0 if pixel_values is None else len(pixel_values)
        if pixel_values is None or int(image.sum()) != n_pictures * self.n_image_pos:
            raise ValueError(
                f"the tokens hold {int(image.sum())} placeholders, but {n_pictures} pictures need {n_pictures} x "
                f"{self.n_image_pos}. generate() passes pictures with the prompt only, so leave use_cache=True"
            )
        embeds: Tensor = self.transformer.wte(input_ids.masked_fill(image, 0))
        like = next(self.vision_encoder.parameters())
        features = self.vision_encoder(pixel_values.to(device=like.device, dtype=like.dtype))
        vectors = self.vision_projection(features).flatten(0, 1).to(device=embeds.device, dtype=embeds.dtype)
        return embeds.index_put(image.nonzero(as_tuple=True), vectors)


class ImageGptjArchitectureAdapter(GptjArchitectureAdapter):
    """Where TransformerLens finds the parts of `GPTJWithVisionForCausalLM`."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.cfg.is_multimodal = True
        self.component_mapping = {
            "vision_encoder": GeneralizedComponent(name="vision_encoder"),
            "vision_projection": GeneralizedComponent(name="vision_projection"),
            **(self.component_mapping or {}),
        }

    def prepare_model(self, hf_model: Any) -> None:
        """Add hook points to the blocks of an encoder that has blocks."""
        super().prepare_model(hf_model)
        if isinstance(getattr(hf_model.vision_encoder.module, "blocks", None), nn.ModuleList):
            layers: dict[str, GeneralizedComponent] = {"encoder_layers": _EncoderLayer(name="module.blocks")}
            shown = GeneralizedComponent(name="vision_encoder", submodules=layers)
            self.component_mapping = {**(self.component_mapping or {}), "vision_encoder": shown}


class _EncoderLayer(GeneralizedComponent):
    is_list_item = True


def image_bridge(lens: Trio) -> Any:
    """A `TransformerBridge` over the parts of a lens: `bridge(tokens, pixel_values=...)`, and `generate` likewise.

    Make the tokens with `bridge.original_model.with_images(ids)` and the pixels with `lens.vision.preprocessing`. The
    bridge shares the lens's weights; the lens itself does not change.

    Raises: TypeError for another language model than GPT-J; ValueError for processed weights.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    register()
    model = image_gpt_j(lens)
    return build_bridge_from_module(model, ARCHITECTURE, hf_config=model.config, tokenizer=lens.tokenizer).eval()


def image_gpt_j(lens: Trio) -> GPTJWithVisionForCausalLM:
    """The parts of a lens as one Hugging Face model that shares their weights.

    Raises: TypeError for another language model than GPT-J; ValueError for processed weights.
    """
    plain = to_hugging_face(lens.model)
    if not isinstance(plain, GPTJForCausalLM):
        raise TypeError(f"expected a lens whose language model is a GPTJForCausalLM, got a {type(plain).__name__}")
    config = copy.deepcopy(plain.config)
    config.architectures = [ARCHITECTURE]
    vision = lens.vision
    linear = lens.projection.linear
    width = linear.out_features if isinstance(linear, nn.Linear) else lens.projection.d_model
    config.n_image_pos = vision.n_patches * width // lens.projection.d_model
    with init_empty_weights(include_buffers=False):
        model = GPTJWithVisionForCausalLM(config)
    model.load_state_dict(plain.state_dict(), assign=True)
    model.vision_encoder = _sharing_weights(vision)
    model.vision_projection = _sharing_weights(lens.projection)
    for name, buffer in model.transformer.named_buffers():
        owner, _, last = name.rpartition(".")
        setattr(model.transformer.get_submodule(owner), last, buffer.to(plain.device))
    return model.eval().requires_grad_(False)


def register() -> None:
    """Add the adapter to TransformerLens' registry, unless the entry point has done so already."""
    ArchitectureAdapterFactory.discover_entry_points()
    if ARCHITECTURE not in ArchitectureAdapterFactory._adapters:
        ArchitectureAdapterFactory.register_adapter(ARCHITECTURE, ImageGptjArchitectureAdapter)


def _sharing_weights(module: Any) -> Any:
    """A copy that shares all tensors: the bridge replaces the modules of the copy, not those of the lens."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
