"""The only trained part: a linear map from image features to soft prompts, in LiMBeR's file format."""

import pickle
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load, save_file
from torch import Tensor, nn


class Projection(nn.Module):
    """Image features to soft prompts, `[batch, patch, d_vision]` to `[batch, pos, d_model]`.

    A linear map whose output is `s` times as wide as the language model gives `s` positions for each patch, as in
    LiMBeR for encoders with one pooled vector.

    Args:
        linear: an `nn.Linear` or any module from `[batch, patch, d_vision]` to `[batch, pos, s * d_model]`.
        n_patches: of the encoder. With more than one, `s` must be 1: a width that is a multiple of d_model then most
            likely belongs to a larger language model. None accepts any `s`.

    Raises:
        ValueError: the map's width does not fit the encoder or the language model; the error names both.
        TypeError: not a module, or its output is not `[batch, pos, width]`.
    """

    def __init__(self, linear: nn.Module, *, d_vision: int, d_model: int, n_patches: int | None = None) -> None:
        super().__init__()
        if not isinstance(linear, nn.Module):
            raise TypeError(f"expected a projection module, got {type(linear).__name__}")
        self.linear = linear
        self.d_model = d_model
        takes = linear.in_features if isinstance(linear, nn.Linear) else d_vision
        if takes != d_vision:
            raise ValueError(
                f"the projection takes features of width {takes}, but the image encoder gives d_vision={d_vision}: "
                f"this projection was trained for another encoder"
            )
        like = next(linear.parameters(), torch.empty(0))
        blank = torch.zeros(1, n_patches or 1, d_vision, device=like.device, dtype=like.dtype)
        try:
            with torch.no_grad():
                out = linear(blank)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the projection {type(linear).__name__} does not take the encoder's features of width "
                f"d_vision={d_vision}: {error}"
            ) from error
        if not isinstance(out, Tensor) or out.ndim != 3:
            got = f"shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise TypeError(
                f"the projection {type(linear).__name__} must give [batch, pos, d_model={d_model}] of features "
                f"{list(blank.shape)}, got {got}"
            )
        width = out.shape[-1]
        if width == 0 or width % d_model or (width > d_model and (n_patches or 1) > 1):
            raise ValueError(
                f"the projection gives vectors of width {width}, but the language model has d_model={d_model}: this "
                f"projection was trained for another language model"
            )

    def forward(self, features: Float[Tensor, "batch patch d_vision"]) -> Float[Tensor, "batch pos d_model"]:
        like = next(self.linear.parameters(), features)
        wide = self.linear(features.to(device=like.device, dtype=like.dtype))
        return rearrange(wide, "batch patch (s d_model) -> batch (patch s) d_model", d_model=self.d_model)


def load_linear(path: str | Path) -> nn.Linear:
    """A linear map from a state dict with `weight` and `bias`: `.ckpt`, `.pt`, `.pth` or `.safetensors`.

    Pickles are read with `weights_only=True`: a file that contains code is refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, unsafe or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no projection at {str(path)!r}; expected a .ckpt or .safetensors file")
    state = _read(path)
    tensors = {str(k).removeprefix("module.").removeprefix("proj."): v for k, v in state.items()}
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if (
        not isinstance(weight, Tensor)
        or not isinstance(bias, Tensor | None)
        or weight.ndim != 2
        or not weight.is_floating_point()
        or set(tensors) - {"weight", "bias"}
    ):
        found = {k: list(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in state.items()}
        raise ValueError(
            f"{str(path)!r} is not a linear projection: expected weight [d_model, d_vision] and bias [d_model], "
            f"found {dict(list(found.items())[:6])}"
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ValueError(f"{str(path)!r}: bias {list(bias.shape)} does not fit weight {list(weight.shape)}")
    if not (torch.isfinite(weight).all() and (bias is None or torch.isfinite(bias).all())):
        raise ValueError(f"{str(path)!r} holds NaN or infinite weights")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    linear.load_state_dict(tensors)
    return linear.eval()


def save_linear(linear: nn.Linear, path: str | Path) -> None:
    """Write `weight` and `bias`: safetensors by that ending, otherwise LiMBeR's checkpoint."""
    _write(linear, Path(path))


def save_projector(projector: nn.Module, folder: Path) -> None:
    """Write the weights as `projection.safetensors`, and those of an `nn.Linear` as LiMBeR's `proj.ckpt` too."""
    _write(projector, folder / "projection.safetensors")
    if isinstance(projector, nn.Linear):
        _write(projector, folder / "proj.ckpt")


def _write(module: nn.Module, path: Path) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def _read(path: Path) -> dict[Any, Any]:
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())  # safetensors itself opens only paths in UTF-8
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} is not a plain file of weights: it is damaged or contains code, so it was not "
            f"loaded ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # a file of another kind fails in the unpickler in any way
        raise ValueError(f"{str(path)!r} is damaged or not a file of weights: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{str(path)!r} holds a {type(state).__name__}, expected a state dict with weight and bias")
    return state
