"""Known trios: the embedded tiny one, and LiMBeR's four on GPT-J-6B (Merullo et al. 2023).

Nothing is downloaded. Language models and encoders are found in a local folder or in the Hugging Face cache of
this machine; LiMBeR's projections under `~/.cache/lens_multimodal/limber_weights`, or at the path given.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from lens_multimodal import tiny
from lens_multimodal.model.beit import beit_from_huggingface, timm_beit
from lens_multimodal.model.loading import load_causal_lm
from lens_multimodal.model.projection import load_linear
from lens_multimodal.model.random_weights import Architecture, RandomTrio, RandomWeights
from lens_multimodal.model.vision import Preprocessing, VisionEncoder

LIMBER_WEIGHTS = Path.home() / ".cache" / "lens_multimodal" / "limber_weights"
"""Where the folders of LiMBeR's `limber_weights` belong: `beit_linear/proj.ckpt`, ..."""

GPT_J = "EleutherAI/gpt-j-6b"

_BEIT = Preprocessing(height=224, width=224)
"""LiMBeR's feature extractor: both sides to 224 without keeping the aspect ratio, mean and deviation 0.5."""

_CLIP = Preprocessing(
    height=384,
    width=384,
    crop_mode="center",
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)

_NF_RESNET = Preprocessing(height=384, width=384, crop_mode="center", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""LiMBeR feeds this encoder unnormalised pixels of a random crop; here the centre, so that a picture always
gives the same caption."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A trio by name: each part is made when it is asked for."""

    name: str
    language_model: Callable[..., tuple[nn.Module, Any]]
    vision: Callable[[], VisionEncoder]
    projection: Callable[[], nn.Module]
    architecture: Architecture


class PooledGrid(nn.Module):
    """A convolutional encoder's mean over the grid as one image patch, as LiMBeR's NF-ResNet50."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        grid: torch.Tensor = self.module.forward_features(pixels)  # type: ignore[operator]
        return grid.mean(dim=(2, 3))[:, None]


def get(model: Any) -> Preset | None:
    """The preset of this name, or None for anything that is not the name of one."""
    return _PRESETS.get(model) if isinstance(model, str) else None


def names() -> list[str]:
    """All presets, the embedded one first."""
    return list(_PRESETS)


def with_random_weights(
    preset: Any, weights: RandomWeights | str, *, device: Any = None, dtype: torch.dtype | None = None
) -> Preset:
    """The preset's own shape with random numbers for weights, made on the device and in the precision given.

    Args: weights: "random", or `RandomWeights` with a seed and a number of layers.
    Raises: ValueError for another word, or without a preset; TypeError for anything else.
    """
    if weights == "random":
        weights = RandomWeights()
    if isinstance(weights, str):
        raise ValueError(
            f"weights must be 'random' or RandomWeights(...), got {weights!r}; trained weights are loaded "
            f"from their files when weights is not given"
        )
    if not isinstance(weights, RandomWeights):
        raise TypeError(f"weights must be 'random' or RandomWeights(...), got {type(weights).__name__}")
    if not isinstance(preset, Preset):
        raise ValueError(
            f"random weights need the shape of a preset: attach_vision(name, weights='random') with one of "
            f"{', '.join(names())}"
        )
    trio = RandomTrio(architecture=preset.architecture, settings=weights, device=device, dtype=dtype)
    layers = "" if weights.n_layers is None else f", {weights.n_layers} layers"
    return replace(
        preset,
        name=f"{preset.name} (random weights, seed {weights.seed}{layers})",
        language_model=lambda **_placement: trio.language_model(),
        vision=trio.vision,
        projection=trio.projection,
    )


def load_language_model(
    name: str | Path, *, device: Any = None, dtype: torch.dtype | None = None
) -> tuple[nn.Module, Any]:
    """A Hugging Face causal language model and its tokenizer from a folder or from this machine's cache.

    Raises:
        FileNotFoundError: the model or its tokenizer is not there; says where it was looked for.
        ValueError: the weights are damaged or not all there.
    """
    from transformers import AutoTokenizer

    needed = "config.json, *.safetensors (or pytorch_model.bin) and the tokenizer"
    try:
        model, info = load_causal_lm(name, device=device, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _absent("language model", str(name), needed) from error
    except (SafetensorError, UnpicklingError, RuntimeError) as error:
        raise ValueError(f"the weights of the language model {str(name)!r} are damaged or unsafe: {error}") from error
    _check_complete(f"language model {str(name)!r}", info)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes one of nothing when its files lack
        raise _absent("tokenizer of", str(name), needed)
    return model, tokenizer


def load_vision(name: str) -> VisionEncoder:
    """An encoder by the name of a preset, of a local Hugging Face BEiT folder, or of a pretrained timm model.

    Raises:
        FileNotFoundError: its weights are not on this machine.
        ValueError: no encoder of this name.
    """
    import timm

    if name in _VISIONS:
        return _VISIONS[name]()
    if Path(name).is_dir():
        return _huggingface_beit(name)
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=5)
        raise ValueError(
            f"no image encoder {name!r}: expected one of {', '.join(_VISIONS)}, a folder with a Hugging Face "
            f"BEiT, or a timm model" + (f" such as {', '.join(close)}" if close else "")
        )
    return VisionEncoder(_timm(name), name=name)


def _limber_projection(folder: str) -> nn.Linear:
    path = LIMBER_WEIGHTS / folder / "proj.ckpt"
    if not path.is_file():
        raise FileNotFoundError(
            f"no projection at {path}: it is limber_weights/{folder}/proj.ckpt of the repository jmerullo/limber on "
            f"GitHub. Put it there, or pass projection='path/to/proj.ckpt'"
        )
    return load_linear(path)


def _huggingface_beit(name: str) -> VisionEncoder:
    from transformers import AutoConfig, BeitModel

    needed = "config.json and the weights of a BeitModel"
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise _absent("image encoder", name, needed)
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
        if config.model_type != "beit":
            raise ValueError(f"{name!r} holds a {config.model_type} model, expected a BEiT")
        load: Any = BeitModel.from_pretrained
        model, info = load(
            name, config=config, local_files_only=True, add_pooling_layer=False, output_loading_info=True
        )
    except OSError as error:
        raise _absent("image encoder", name, needed) from error
    _check_complete(f"image encoder {name!r}", info)
    size: Any = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return VisionEncoder(
        beit_from_huggingface(model).requires_grad_(False),
        preprocessing=replace(_BEIT, height=height, width=width),
        name=Path(name).name,
    )


def _timm(name: str, **options: Any) -> nn.Module:
    import timm
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        return timm.create_model(name, pretrained=True, **options).eval().requires_grad_(False)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError, RuntimeError) as error:
        raise _absent("image encoder", f"timm/{name}", "model.safetensors") from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _check_complete(what: str, info: dict[str, Any]) -> None:
    """transformers fills weights that a file lacks with random ones and only warns."""
    unused = ("mask_token", "relative_position_index")
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(unused))
    if missing:
        raise ValueError(f"the weights of the {what} lack {', '.join(missing[:5])}: this is the file of another model")


def _absent(what: str, name: str, files: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"no {what} {name!r} on this machine: neither a folder of that name with {files}, nor in the Hugging Face "
        f"cache. Fetch it once with `hf download {name}` on a machine with access, or pass the folder it lies in"
    )


def _gpt_j(*, device: Any = None, dtype: torch.dtype | None = None) -> tuple[nn.Module, Any]:
    return load_language_model(GPT_J, device=device, dtype=dtype)


def _tiny_language_model(**_placement: Any) -> tuple[nn.Module, Any]:
    return tiny.load_language_model()


def _tiny_config() -> Any:
    from transformers import GPTJConfig

    return GPTJConfig.from_pretrained(tiny.FOLDER / "language", local_files_only=True)


def _tiny_vision() -> nn.Module:
    from timm.models.beit import Beit

    return Beit(**tiny.read_vision_config()["beit"])


def _tiny_linear() -> nn.Module:
    return nn.Linear(tiny.read_vision_config()["beit"]["embed_dim"], _tiny_config().n_embd)


def _gpt_j_config() -> Any:
    """GPT-J-6B's sizes are the defaults; the ends of texts are those of the stand-in tokenizer."""
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


_VISIONS: dict[str, Callable[[], VisionEncoder]] = {
    "tiny": tiny.load_vision,
    "beit-large": lambda: _huggingface_beit("microsoft/beit-large-patch16-224-pt22k"),
    "beit-large-ft": lambda: _huggingface_beit("microsoft/beit-large-patch16-224-pt22k-ft22k"),
    "clip-rn50x16": lambda: VisionEncoder(_timm("resnet50x16_clip.openai"), preprocessing=_CLIP, name="CLIP RN50x16"),
    "nf-resnet50": lambda: VisionEncoder(
        PooledGrid(_timm("nf_resnet50.ra2_in1k")), preprocessing=_NF_RESNET, name="NF-ResNet50"
    ),
}


def _limber(name: str, vision: str, folder: str, architecture: Architecture) -> Preset:
    return Preset(
        name=name,
        language_model=_gpt_j,
        vision=lambda: load_vision(vision),
        projection=lambda: _limber_projection(folder),
        architecture=architecture,
    )


def _gpt_j_with(
    vision: Callable[[], nn.Module], preprocessing: Preprocessing, *, d_vision: int, positions: int = 1
) -> Architecture:
    """GPT-J-6B behind an encoder; each of its vectors becomes `positions` soft prompts."""
    return Architecture(
        language_model=_gpt_j_config,
        vision=vision,
        projection=lambda: nn.Linear(d_vision, positions * 4096),
        preprocessing=preprocessing,
    )


_PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            language_model=_tiny_language_model,
            vision=tiny.load_vision,
            projection=tiny.load_projection,
            architecture=Architecture(
                language_model=_tiny_config,
                vision=_tiny_vision,
                projection=_tiny_linear,
                preprocessing=Preprocessing(height=48, width=48),
            ),
        ),
        _limber(
            "gpt-j-limber-beit",
            "beit-large",
            "beit_linear",
            _gpt_j_with(lambda: _beit_large(shared_bias=True), _BEIT, d_vision=1024),
        ),
        _limber(
            "gpt-j-limber-beit-ft",
            "beit-large-ft",
            "beit_ft_linear",
            _gpt_j_with(lambda: _beit_large(shared_bias=False), _BEIT, d_vision=1024),
        ),
        _limber(
            "gpt-j-limber-clip",
            "clip-rn50x16",
            "clip_linear",
            _gpt_j_with(lambda: _untrained("resnet50x16_clip"), _CLIP, d_vision=3072),
        ),
        _limber(
            "gpt-j-limber-nf-resnet50",
            "nf-resnet50",
            "nfrn50_4096_linear",
            _gpt_j_with(lambda: PooledGrid(_untrained("nf_resnet50")), _NF_RESNET, d_vision=2048, positions=2),
        ),
    )
}
