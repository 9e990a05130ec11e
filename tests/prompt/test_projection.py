"""The linear map: its widths, its files, and files that would run code when they are read."""

import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lens_multimodal import Projection, load_linear, save_linear
from tests.lenses import unchecked


class Touch:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_linear_map_of_each_patch():
    linear = nn.Linear(4, 6)
    features = torch.randn(2, 5, 4)
    out = Projection(linear, d_vision=4, d_model=6)(features)
    torch.testing.assert_close(out, features @ linear.weight.T + linear.bias)


def test_one_pooled_vector_may_become_several_positions():
    linear = nn.Linear(4, 12)
    features = torch.randn(2, 1, 4)
    out = Projection(linear, d_vision=4, d_model=6, n_patches=1)(features)
    assert out.shape == (2, 2, 6)
    torch.testing.assert_close(out.flatten(1), linear(features)[:, 0])
    with pytest.raises(ValueError, match=r"width 12\b.*d_model=6:"):
        Projection(linear, d_vision=4, d_model=6, n_patches=9)


def test_widths_that_do_not_fit():
    for n_patches in (None, 1, 9):
        with pytest.raises(ValueError, match=r"features.* width 4\b.*d_vision=5:"):
            Projection(nn.Linear(4, 6), d_vision=5, d_model=6, n_patches=n_patches)
        with pytest.raises(ValueError, match=r"vectors.* width 6\b.*d_model=7:"):
            Projection(nn.Linear(4, 6), d_vision=4, d_model=7, n_patches=n_patches)
        with pytest.raises(ValueError, match=r"vectors.* width 6\b.*d_model=12:"):
            Projection(nn.Linear(4, 6), d_vision=4, d_model=12, n_patches=n_patches)
    with pytest.raises(TypeError, match=r"projection.* Tensor$"):
        unchecked(Projection.__init__)(Projection.__new__(Projection), torch.zeros(6, 4), d_vision=4, d_model=6)


def test_other_modules():
    deep = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 6))
    features = torch.randn(2, 5, 4)
    assert torch.equal(Projection(deep, d_vision=4, d_model=6, n_patches=5)(features), deep(features))
    with pytest.raises(ValueError, match=r"Sequential .*d_vision=3\b"):
        Projection(deep, d_vision=3, d_model=6)
    with pytest.raises(ValueError, match=r"vectors.* width 6\b.*d_model=5:"):
        Projection(deep, d_vision=4, d_model=5)
    with pytest.raises(TypeError, match=r"\[batch, pos, d_model=20\].*\[1, 5, 4\].* \[1, 20\]$"):
        Projection(nn.Flatten(), d_vision=4, d_model=20, n_patches=5)
    with pytest.raises(TypeError, match="got tuple"):
        Projection(nn.GRU(4, 6), d_vision=4, d_model=6)
    assert Projection(nn.Identity(), d_vision=4, d_model=4)(features).shape == (2, 5, 4)


def test_features_of_another_precision():
    projection = Projection(nn.Linear(4, 6, dtype=torch.bfloat16), d_vision=4, d_model=6)
    assert projection(torch.randn(1, 2, 4, dtype=torch.float64)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["proj.ckpt", "proj.pt", "proj.pth", "proj.safetensors"])
def test_files_give_back_the_map(tmp_path, name):
    linear = nn.Linear(4, 6)
    save_linear(linear, tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        found = load_linear(path)
        assert torch.equal(found.weight, linear.weight)
        assert torch.equal(found.bias, linear.bias)
    half = nn.Linear(4, 6, bias=False, dtype=torch.bfloat16)
    save_linear(half, tmp_path / name)
    found = load_linear(tmp_path / name)
    assert found.weight.dtype == torch.bfloat16
    assert found.bias is None


def test_limber_checkpoint_of_the_true_shapes(tmp_path):
    weight, bias = torch.randn(4096, 1024), torch.randn(4096)
    torch.save({"weight": weight, "bias": bias}, tmp_path / "proj.ckpt")
    linear = load_linear(tmp_path / "proj.ckpt")
    assert torch.equal(linear.weight, weight)
    assert torch.equal(linear.bias, bias)
    assert Projection(linear, d_vision=1024, d_model=4096, n_patches=196).d_model == 4096
    with pytest.raises(ValueError, match=r"width 4096\b.*d_model=1024:"):
        Projection(linear, d_vision=1024, d_model=1024, n_patches=196)
    for prefix in ("proj.", "module.", "module.proj."):
        torch.save({f"{prefix}weight": weight[:6, :4], f"{prefix}bias": bias[:6]}, tmp_path / "prefixed.ckpt")
        assert torch.equal(load_linear(tmp_path / "prefixed.ckpt").weight, weight[:6, :4])


@pytest.mark.parametrize("name", ["proj.ckpt", "proj.safetensors"])
@pytest.mark.parametrize("wrapped", ["plain pickle", "in a state dict", "zip"])
def test_hostile_pickles_are_refused_and_never_run(tmp_path, name, wrapped):
    path, touched = tmp_path / name, tmp_path / "touched"
    evil = Touch(touched)
    if wrapped == "plain pickle":
        path.write_bytes(pickle.dumps(evil))
    elif wrapped == "in a state dict":
        torch.save({"weight": torch.zeros(6, 4), "bias": evil}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(evil))
            archive.writestr("archive/version", "3")
    with pytest.raises(ValueError, match=rf"{re.escape(name)}'.*(code|damaged)"):
        load_linear(path)
    assert not touched.exists()


def test_files_that_are_not_projections(tmp_path):
    def refused(content, message, name="proj.ckpt"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            load_linear(path)

    fits = {"weight": torch.zeros(6, 4), "bias": torch.zeros(6)}
    refused(b"", r"proj\.ckpt'.*damaged")
    refused(b"hello", r"proj\.ckpt'.*damaged")
    refused(b"hello", r"proj\.safetensors'.*damaged", "proj.safetensors")
    numbers = io.BytesIO()
    np.save(numbers, np.zeros((6, 4)))
    refused(numbers.getvalue(), r"proj\.ckpt'.*damaged")
    whole = io.BytesIO()
    torch.save(fits, whole)
    refused(whole.getvalue()[:-100], r"proj\.ckpt'.*damaged")
    refused([1, 2], r"\blist\b.*weight.*bias")
    refused(torch.zeros(6, 4), r"\bTensor\b.*weight.*bias")
    refused({}, r"weight \[d_model, d_vision\].*bias \[d_model\].* \{\}")
    refused({"weight": torch.zeros(6)}, r"found \{'weight': \[6\]\}")
    refused({"weight": torch.zeros(6, 4, dtype=torch.long)}, r"proj\.ckpt'.*weight \[d_model, d_vision\]")
    refused({**fits, "bias": 3}, r"proj\.ckpt'.*weight \[d_model, d_vision\]")
    refused({**fits, "scale": torch.ones(1)}, r"proj\.ckpt'.*weight \[d_model, d_vision\]")
    refused({1: torch.zeros(6, 4), "weight": torch.zeros(6, 4)}, r"proj\.ckpt'.*weight \[d_model, d_vision\]")
    refused({**fits, "bias": torch.zeros(4)}, r"bias \[4\] .*weight \[6, 4\]")
    for value in (torch.nan, torch.inf):
        refused({**fits, "bias": torch.full((6,), value)}, r"proj\.ckpt'.*NaN")
    save_file({"embedding": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"found \{'embedding': \[2, 2\]\}"):
        load_linear(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt'.*\.ckpt.*\.safetensors"):
        load_linear(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError):
        load_linear(tmp_path)
