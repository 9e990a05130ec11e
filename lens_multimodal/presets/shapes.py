"""The architecture of each preset's parts, for random weights of full size."""

from collections.abc import Callable
from typing import Any

from torch import nn

from lens_multimodal import tiny
from lens_multimodal.image.beit import timm_beit
from lens_multimodal.image.preprocessing import Preprocessing
from lens_multimodal.presets.encoders import BEIT, CLIP, NF_RESNET, PooledGrid
from lens_multimodal.presets.random_weights import Architecture


def _tiny_config() -> Any:
    from transformers import GPTJConfig

    return GPTJConfig.from_pretrained(tiny.FOLDER / "language", local_files_only=True)


def _tiny_vision() -> nn.Module:
    from timm.models.beit import Beit

    return Beit(**tiny.read_vision_config()["beit"])


def _tiny_linear() -> nn.Module:
    return nn.Linear(tiny.read_vision_config()["beit"]["embed_dim"], _tiny_config().n_embd)


def _gpt_j_config() -> Any:
    """GPT-J-6B's sizes are the defaults; its end tokens are those of the stand-in tokenizer."""
    from transformers import GPTJConfig

    return GPTJConfig(bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)


def _beit_large(*, shared_bias: bool) -> nn.Module:
    from transformers import BeitConfig

    config = BeitConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        layer_scale_init_value=1e-5,
        use_relative_position_bias=not shared_bias,
        use_shared_relative_position_bias=shared_bias,
        use_mean_pooling=True,
    )
    return timm_beit(config)


def _untrained(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False)


def _gpt_j_with(
    vision: Callable[[], nn.Module], preprocessing: Preprocessing, *, d_vision: int, positions: int = 1
) -> Architecture:
    """GPT-J-6B with an encoder; each encoder vector becomes `positions` image positions."""
    return Architecture(
        language_model=_gpt_j_config,
        vision=vision,
        projection=lambda: nn.Linear(d_vision, positions * 4096),
        preprocessing=preprocessing,
    )


TINY = Architecture(
    language_model=_tiny_config,
    vision=_tiny_vision,
    projection=_tiny_linear,
    preprocessing=Preprocessing(height=48, width=48),
)
LIMBER_BEIT = _gpt_j_with(lambda: _beit_large(shared_bias=True), BEIT, d_vision=1024)
LIMBER_BEIT_FT = _gpt_j_with(lambda: _beit_large(shared_bias=False), BEIT, d_vision=1024)
LIMBER_CLIP = _gpt_j_with(lambda: _untrained("resnet50x16_clip"), CLIP, d_vision=3072)
LIMBER_NF_RESNET = _gpt_j_with(lambda: PooledGrid(_untrained("nf_resnet50")), NF_RESNET, d_vision=2048, positions=2)
