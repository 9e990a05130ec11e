"""The models that are measured: one lens, and a plain Hugging Face model on the same weights."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lens_multimodal import Preprocessing, VisionLens, attach_vision, transformer
from lens_multimodal.presets.random_weights import Architecture, RandomTrio, RandomWeights
from lens_multimodal.prompt.image_prompt import PROMPT, ImagePrompt
from lens_multimodal.transformer.to_hugging_face import to_hugging_face


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The models and inputs that every figure measures."""

    shape: str
    """One of `SHAPES`; its weights are random."""
    device: str
    dtype: torch.dtype
    rounds: int
    n_stream: int
    ceilings: dict[str, float]
    """Measured by `machine.ceilings`."""

    @cached_property
    def lens(self) -> VisionLens:
        return SHAPES[self.shape](device=self.device, dtype=self.dtype)

    @cached_property
    def plain(self) -> Any:
        """A bare `GPTJForCausalLM` on the tensors of `lens.model`."""
        return to_hugging_face(self.lens.model)

    def let_go(self) -> None:
        """Release the memory of both models; they are made again when needed."""
        for name in ("plain", "lens"):
            self.__dict__.pop(name, None)
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def picture(self, seed: int = 0) -> Image.Image:
        """Noise of a photograph's size: no cost here depends on a picture's content."""
        pixels = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def prompts(self, batch: int = 1, text: str = PROMPT) -> ImagePrompt:
        return self.lens.prompt([self.picture(i) for i in range(batch)], text)

    @torch.no_grad()
    def embedded(self, prompt: ImagePrompt) -> Tensor:
        """The prompt in the form that the rivals take: vectors in place of token ids."""
        return transformer.embedding_module(self.lens.model)(prompt.tokens).detach()

    def targets(self, n: int) -> list[int]:
        """Token ids to explain."""
        return [(7 + 13 * i) % self.lens.shape.d_vocab for i in range(n)]


def small_lens(
    *, device: str, dtype: torch.dtype, n_layers: int = 8, d_model: int = 512, grid: int = 14, d_vocab: int = 8000
) -> VisionLens:
    """GPT-J's layout, small enough for a CPU core to run in a fraction of a second, with 196 image positions."""
    trio = RandomTrio(
        architecture=Architecture(
            language_model=partial(_config, n_layers=n_layers, d_model=d_model, d_vocab=d_vocab),
            vision=partial(_beit, side=8 * grid),
            projection=lambda: nn.Linear(192, d_model),
            preprocessing=Preprocessing(height=8 * grid, width=8 * grid),
        ),
        settings=RandomWeights(),
        device=device,
        dtype=dtype,
    )
    model, tokenizer = trio.language_model()
    return attach_vision(
        model, vision=trio.vision(), projection=trio.projection(), tokenizer=tokenizer, device=device, dtype=dtype
    )


def _config(*, n_layers: int, d_model: int, d_vocab: int) -> Any:
    from transformers import GPTJConfig

    return GPTJConfig(
        vocab_size=d_vocab,
        n_positions=512,
        n_embd=d_model,
        n_layer=n_layers,
        n_head=d_model // 32,
        rotary_dim=16,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )


def _beit(*, side: int) -> nn.Module:
    from timm.models.beit import Beit

    return Beit(
        img_size=side, patch_size=8, embed_dim=192, depth=4, num_heads=4, num_classes=0, init_values=0.1,
        use_abs_pos_emb=False, use_shared_rel_pos_bias=True,
    )  # fmt: skip


def _preset(name: str, *, device: str, dtype: torch.dtype, n_layers: int | None = None) -> VisionLens:
    return attach_vision(name, weights=RandomWeights(n_layers=n_layers), device=device, dtype=dtype)


SHAPES: dict[str, Callable[..., VisionLens]] = {
    "tiny": partial(_preset, "tiny"),
    "small": small_lens,
    "deep": partial(small_lens, n_layers=28, d_model=256),
    "slice": partial(_preset, "gpt-j-limber-beit", n_layers=4),
    "gpt-j": partial(_preset, "gpt-j-limber-beit"),
}
"""By name: the embedded trio's, GPT-J's layout made small, the same with its 28 layers, 4 of GPT-J-6B's layers at full
width, GPT-J-6B with BEiT-large."""
