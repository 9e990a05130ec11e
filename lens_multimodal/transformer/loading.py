"""Language models from a local folder, straight to their device and precision.

GPT-J-6B is 24 GB in float32, and a second copy while loading would be 24 GB more. So weights are mapped from the file
in the precision they were saved in, each tensor moves to its device separately, and a shard's memory is freed with its
last tensor. Peak CPU memory is one shard and what stays on the CPU. This holds for sharded safetensors and for the old
`pytorch_model.bin`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from torch import nn

from lens_multimodal.transformer import hooked_transformer, model_class
from lens_multimodal.transformer.accepted_models import wrap


def load_language_model(
    name: str | Path, *, device: Any = None, dtype: torch.dtype | None = None
) -> tuple[nn.Module, Any]:
    """A Hugging Face causal language model and its tokenizer from a folder or from this machine's cache.

    Raises:
        FileNotFoundError: the model or its tokenizer is not there; the error says where it was looked for.
        ValueError: the weights are damaged or incomplete.
    """
    from transformers import AutoTokenizer

    needed = "config.json, *.safetensors (or pytorch_model.bin) and the tokenizer"
    with explained("language model", name, needed):
        model, info = load_causal_lm(name, device=device, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    check_complete(f"language model {str(name)!r}", info)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # without its files transformers makes an empty tokenizer
        raise absent("tokenizer of", str(name), needed)
    return model, tokenizer


def load_causal_lm(
    name: str | Path,
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
    attention: str = "eager",
    safetensors_only: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """A frozen Hugging Face causal language model from a folder or this machine's cache; nothing is downloaded.

    Args:
        device: None for the CPU.
        dtype: None for the precision of the file.
        attention: an implementation of transformers; hooks on attention need "eager".
        safetensors_only: refuse pickled weights.
    Returns: the model, and what transformers reports about missing and unexpected weights.
    Raises: what `from_pretrained` raises: OSError, ValueError, SafetensorError, UnpicklingError, RuntimeError.
    """
    from transformers import AutoModelForCausalLM

    settings = {"use_safetensors": True} if safetensors_only else {}
    return load_pretrained(AutoModelForCausalLM, name, device=device, dtype=dtype, attention=attention, **settings)


def load_pretrained(
    auto_class: Any,
    name: str | Path,
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
    attention: str = "eager",
    **settings: Any,
) -> tuple[Any, dict[str, Any]]:
    """A frozen model of one of Hugging Face's auto classes; every model with a decoder comes through here.

    Args: settings: further arguments of `from_pretrained`.
    Returns, Raises: as `load_causal_lm`.
    """
    model, info = auto_class.from_pretrained(
        name,
        local_files_only=True,
        dtype=_stored_dtype(Path(name)) or "auto",
        trust_remote_code=False,
        attn_implementation=attention,
        output_loading_info=True,
        **settings,
    )
    model.eval().requires_grad_(False)
    place(model, device=device, dtype=dtype)
    return model, info


@contextmanager
def explained(what: str, name: str | Path, needed: str) -> Iterator[None]:
    """Turn what `from_pretrained` raises into errors that say which files are missing or damaged.

    Raises: FileNotFoundError, ValueError.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise absent(what, str(name), needed) from error
    except (SafetensorError, UnpicklingError, RuntimeError) as error:
        raise ValueError(f"the weights of the {what} {str(name)!r} are damaged or unsafe: {error}") from error


def load_hooked_gpt_j(
    name: str | Path, *, tokenizer: Any = None, device: Any = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """GPT-J from a local folder as a `HookedTransformer` with unprocessed weights, without a second copy.

    Args: as `load_causal_lm`; tokenizer: None takes the folder's own.
    Raises: RuntimeError without a `HookedTransformer` (TransformerLens 4); TypeError for another architecture;
        otherwise as `load_language_model`.
    """
    hooked_transformer.check_available()
    language_model, own = load_language_model(name, device=device, dtype=dtype)
    return hooked_transformer.share_gpt_j(language_model, tokenizer=own if tokenizer is None else tokenizer)


def in_class(language_model: nn.Module, name: str, *, tokenizer: Any) -> nn.Module:
    """A Hugging Face model in the TransformerLens class that `transformer.class_name` named.

    It becomes a bridge where that class is gone (TransformerLens 4 has no `HookedTransformer`).
    """
    if name == model_class.HOOKED and hooked_transformer.is_available():
        return hooked_transformer.hooked_gpt_j(language_model, tokenizer=tokenizer)  # type: ignore[arg-type]
    bridge: Any = wrap(language_model, tokenizer=tokenizer)
    if name == model_class.COMPATIBLE:
        bridge.enable_compatibility_mode(no_processing=True)
    return bridge


def place(model: nn.Module, *, device: Any = None, dtype: torch.dtype | None = None) -> None:
    """Move and cast a model one tensor at a time, freeing each before the next is made.

    Integers keep their type. Tensors go in order of address, so that one file is unmapped before the next is read.
    """
    for parameter in sorted(model.parameters(), key=torch.Tensor.data_ptr):
        parameter.data = _placed(parameter.data, device, dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = _placed(buffer, device, dtype)


def check_complete(what: str, info: dict[str, Any]) -> None:
    """Raise ValueError where weights are missing: transformers fills them with random ones and only warns."""
    unused = ("mask_token", "relative_position_index")
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(unused))
    if missing:
        raise ValueError(f"the weights of the {what} lack {', '.join(missing[:5])}: this is the file of another model")


def absent(what: str, name: str, files: str) -> FileNotFoundError:
    """The error for a part whose files are neither in a folder nor in the cache."""
    return FileNotFoundError(
        f"no {what} {name!r} on this machine: neither a folder of that name with {files}, nor in the Hugging Face "
        f"cache. Download it once with `hf download {name}` on a machine with access, or pass its folder"
    )


def _placed(values: torch.Tensor, device: Any, dtype: torch.dtype | None) -> torch.Tensor:
    return values.to(device=device, dtype=dtype if values.is_floating_point() else None)


def _stored_dtype(folder: Path) -> torch.dtype | None:
    """The precision of a folder's weights, or None if the files do not say.

    `config.json` may name another one, and then transformers would cast while everything is mapped.
    """
    from safetensors import safe_open

    for path in sorted(folder.glob("model*.safetensors"))[:1]:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                code = file.get_slice(key).get_dtype()
                if code in _CODES:
                    return _CODES[code]
    for path in filter(is_zipfile, sorted(folder.glob("pytorch_model*.bin"))[:1]):
        weights = torch.load(path, map_location="meta", weights_only=True)
        return next((value.dtype for value in weights.values() if value.is_floating_point()), None)
    return None


_CODES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
