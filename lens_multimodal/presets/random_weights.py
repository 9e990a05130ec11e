"""A trio of full size with random weights, to measure time and memory, which depend on the shapes alone.

Parts are built without storage and filled one tensor after another, on their device and in their precision, so memory
never holds a second copy. Each tensor has its own seed, made of the trio's seed and the tensor's name: a model of the
first layers alone has the same weights there as the full model, and every precision rounds the same float32 numbers.
CPU and GPU draw different numbers.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lens_multimodal import tiny
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.preprocessing import Preprocessing
from lens_multimodal.transformer.loading import place

CHUNK = 2**24
"""Numbers drawn at a time, into one float32 buffer."""


@dataclass(frozen=True, kw_only=True)
class RandomWeights:
    """Random weights instead of trained ones.

    Raises: ValueError for a negative seed or no layer.
    """

    seed: int = 0
    n_layers: int | None = None
    """How many of the language model's first layers to keep; None for all."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.n_layers is not None and self.n_layers < 1:
            raise ValueError(f"n_layers must be positive, got {self.n_layers}")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shapes of a trio's parts, without weights; each is built on demand."""

    language_model: Callable[[], Any]
    """Returns the Hugging Face configuration of a GPT-J."""
    vision: Callable[[], nn.Module]
    """Builds the untrained encoder."""
    projection: Callable[[], nn.Module]
    """Builds the untrained map between the two."""
    preprocessing: Preprocessing


@dataclass(frozen=True, kw_only=True)
class RandomTrio:
    """The three parts of an architecture with random weights, each built on demand."""

    architecture: Architecture
    settings: RandomWeights
    device: Any = None
    dtype: torch.dtype | None = None
    """None for float32."""

    def language_model(self) -> tuple[nn.Module, Any]:
        """A Hugging Face GPT-J and a stand-in for its tokenizer.

        Raises: ValueError for more layers than the architecture has.
        """
        from transformers import GPTJForCausalLM

        config = self.architecture.language_model()
        if self.settings.n_layers is not None:
            if self.settings.n_layers > config.n_layer:
                raise ValueError(f"n_layers={self.settings.n_layers} is more than the model's {config.n_layer} layers")
            config.n_layer = self.settings.n_layers
        config._attn_implementation = "eager"
        model = self._filled("language model", lambda: GPTJForCausalLM(config))
        return model, stand_in_tokenizer(config.vocab_size)

    def vision(self) -> VisionEncoder:
        """The encoder with its preprocessing."""
        module = self._filled("image encoder", self.architecture.vision)
        name = f"random {type(module).__name__}"
        return VisionEncoder(module, preprocessing=self.architecture.preprocessing, name=name)

    def projection(self) -> nn.Module:
        """The linear map from the encoder's width to the language model's."""
        return self._filled("projection", self.architecture.projection)

    def _filled(self, part: str, build: Callable[[], nn.Module]) -> nn.Module:
        return random_module(build, seed=self.settings.seed, part=part, device=self.device, dtype=self.dtype)


def random_module(
    build: Callable[[], nn.Module],
    *,
    seed: int = 0,
    part: str = "",
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A frozen module with random parameters, drawn directly on their device and in their precision.

    Matrices are normal with variance 1 / fan-in, so signals keep their size from layer to layer. Norm weights scatter
    around one and biases around zero.

    Args:
        build: makes the module; its parameters are created without storage.
        part: enters the seed, so that parameters of equal names differ between parts.
        dtype: None for float32.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = build()
    where = torch.device("cpu" if device is None else device)
    parameters = list(module.named_parameters())
    # One buffer for all tensors: a new buffer for each would fragment main memory.
    noise = torch.empty(min(CHUNK, max((p.numel() for _, p in parameters), default=1)), device=where)
    for name, empty in parameters:
        values = torch.empty(empty.shape, device=where, dtype=dtype or torch.float32)
        _draw(name, values, noise, seed=f"{seed} {part} {name}")
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, nn.Parameter(values, requires_grad=False))
    for inner in module.modules():
        if hasattr(inner, "init_non_persistent_buffers"):  # older timm leaves them unfilled without storage
            inner.init_non_persistent_buffers()  # type: ignore[operator]
    if hasattr(module, "tie_weights"):
        module.tie_weights()  # type: ignore[operator]  # building without storage unties them
    place(module, device=where, dtype=dtype)
    return module.eval()


def stand_in_tokenizer(d_vocab: int) -> Any:
    """The embedded trio's tokenizer, extended to a larger vocabulary by tokens named after their ids, such as `<6001>`.

    Random weights know no words; the tokenizer only makes it possible to write prompts and read captions.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    described = json.loads((Path(tiny.FOLDER) / "language" / "tokenizer.json").read_text())
    words: dict[str, int] = described["model"]["vocab"]
    if d_vocab < len(words):
        raise ValueError(f"the stand-in tokenizer has {len(words)} tokens, more than a vocabulary of {d_vocab}")
    words.update({f"<{i}>": i for i in range(len(words), d_vocab)})
    end = described["added_tokens"][0]["content"]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), bos_token=end, eos_token=end, pad_token=end
    )


def _draw(name: str, values: Tensor, noise: Tensor, *, seed: str) -> None:
    """Fill a tensor, `len(noise)` numbers at a time."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big")
    generator = torch.Generator(values.device).manual_seed(number)
    if values.ndim > 1:
        centre, spread = 0.0, (values.shape[0] / values.numel()) ** 0.5
    else:
        scales = name.endswith("weight") or "gamma" in name
        centre, spread = (1.0 if scales else 0.0), 0.1
    for chunk in values.view(-1).split(len(noise)):
        chunk.copy_(noise[: len(chunk)].normal_(centre, spread, generator=generator))
