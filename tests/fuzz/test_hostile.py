"""Files made to do harm: to run code, to read elsewhere, to fill the memory."""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from lens_multimodal import Preprocessing, attach_vision, load_linear
from lens_multimodal.data import read_coco, read_folder, read_shards
from lens_multimodal.files import digest_of_file
from lens_multimodal.image.pictures import NotAPicture
from lens_multimodal.train import FitSettings, checkpoint
from lens_multimodal.transformer.loading import load_language_model
from tests.lenses import picture


class Bomb:
    """Unpickled without care, it writes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.fixture
def witness(tmp_path) -> Path:
    return tmp_path / "code-was-run"


@pytest.fixture(scope="module")
def saved(lens, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "lens"
    lens.save_pretrained(folder)
    return folder


def test_the_bomb_works_where_nobody_takes_care(witness):
    pickle.loads(pickle.dumps(Bomb(witness)))
    assert witness.exists()


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth", ".safetensors", ""])
@pytest.mark.parametrize("writer", ["torch", "pickle", "old torch"])
def test_a_projection_that_is_a_program(tmp_path, witness, ending, writer):
    path = tmp_path / f"proj{ending}"
    state = {"weight": torch.zeros(3, 2), "bias": Bomb(witness)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(ValueError, match=rf"proj\{ending}'.*(code|damaged)"):
        load_linear(path)
    assert not witness.exists()


def test_a_checkpoint_of_training_that_is_a_program(tmp_path, witness):
    torch.save({"step": 1, "settings": Bomb(witness)}, tmp_path / "checkpoint.pt")
    linear = torch.nn.Linear(2, 3)
    optimizer, scaler = torch.optim.AdamW(linear.parameters()), torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(ValueError, match=r"checkpoint\.pt.*damaged"):
        checkpoint.resume(tmp_path, linear, optimizer, scaler, FitSettings())
    assert not witness.exists()


def test_a_language_model_that_is_a_program(saved, tmp_path, witness):
    """Weights as a pickle in place of safetensors, in a saved lens whose checksums fit."""
    folder = _copy(saved, tmp_path)
    (folder / "language" / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Bomb(witness)}, folder / "language" / "pytorch_model.bin")
    _fit_checksums(folder)
    with pytest.raises(ValueError, match="language"):
        attach_vision(folder)
    assert not witness.exists()


@pytest.mark.parametrize("field", ["auto_map", "architectures"])
def test_a_config_that_brings_its_own_code(saved, tmp_path, witness, field):
    folder = _copy(saved, tmp_path)
    config = json.loads((folder / "language" / "config.json").read_text())
    config[field] = (
        {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"} if field == "auto_map" else ["Evil"]
    )
    (folder / "language" / "config.json").write_text(json.dumps(config))
    (folder / "language" / "evil.py").write_text(
        f"import os; os.mkdir({str(witness)!r})\nclass Model: pass\nclass Config: pass\n"
    )
    _fit_checksums(folder)
    with contextlib.suppress(ValueError, FileNotFoundError):
        attach_vision(folder).detach()
    with contextlib.suppress(ValueError, FileNotFoundError):
        load_language_model(folder / "language")
    assert not witness.exists()


@pytest.mark.parametrize("name", ["../outside.txt", "{absolute}", "language/../../outside.txt"])
def test_a_card_that_points_outside(saved, tmp_path, name):
    """A card may not make us read files beside the lens."""
    folder = _copy(saved, tmp_path)
    (tmp_path / "outside.txt").write_text("private")
    card = json.loads((folder / "lens.json").read_text())
    card["files"][name.format(absolute=tmp_path / "outside.txt")] = "0" * 64
    (folder / "lens.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="outside"):
        attach_vision(folder)


@pytest.mark.parametrize(
    "architecture", ["timm/hub:evil", "hf-hub:evil/model", "local-dir:/etc", "../vit_tiny_patch16_224"]
)
def test_an_encoder_that_timm_would_fetch(saved, tmp_path, architecture):
    folder = _copy(saved, tmp_path)
    described = json.loads((folder / "vision.json").read_text())
    described["architecture"] = {"timm": {"name": architecture, "options": {}}}
    (folder / "vision.json").write_text(json.dumps(described))
    _fit_checksums(folder)
    with pytest.raises(ValueError, match=r"architecture|encoder|timm"):
        attach_vision(folder)


@pytest.mark.parametrize("name", ["../secret.png", "{absolute}", "sub/../../secret.png"])
@pytest.mark.parametrize("kind", ["captions.jsonl", "captions.csv", "coco"])
def test_a_data_set_that_points_outside(tmp_path, name, kind):
    folder = tmp_path / "data"
    (folder / "images" / "sub").mkdir(parents=True)
    (folder / "sub").mkdir()
    picture().save(tmp_path / "secret.png")
    picture().save(folder / "secret.png")
    name = name.format(absolute=tmp_path / "secret.png")
    if kind == "coco":
        entry = {"id": 1, "file_name": name, "height": 20, "width": 30}
        for file in ("captions", "instances"):
            (folder / f"{file}.json").write_text(json.dumps({"images": [entry], "annotations": [], "categories": []}))
    elif kind == "captions.csv":
        (folder / kind).write_text(f"file_name,caption\n{name},a dog\n")
    else:
        (folder / kind).write_text(json.dumps({"file_name": name, "caption": "a dog"}) + "\n")
    with pytest.raises(ValueError, match=re.escape(name)):
        read_coco(folder) if kind == "coco" else read_folder(folder)


def test_a_link_to_elsewhere_in_a_folder_of_captions(tmp_path):
    """A link is the owner's own doing and is followed for pictures; a file that is not a picture stays unread."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "password").write_text("secret")
    (folder / "a.png").symlink_to(tmp_path / "password")
    (folder / "a.txt").write_text("a dog")
    with pytest.raises(NotAPicture, match=r"a\.png"):
        read_folder(folder)[0].open()


def test_shards_write_nothing_and_follow_no_links(tmp_path):
    path = tmp_path / "shards" / "a.tar"
    path.parent.mkdir()
    (tmp_path / "secret.txt").write_text("secret caption")
    with tarfile.open(path, "w") as tar:
        for name, target in (("x.png", None), ("../../escaped.txt", b"a"), ("y.png", None)):
            _add(tar, name, _png() if target is None else target)
        link = tarfile.TarInfo("y.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.txt")
        tar.addfile(link)
        _add(tar, "/etc/evil.png", _png())
        _add(tar, "/etc/evil.txt", b"a dog")
    before = sorted(tmp_path.rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(read_shards(path))
        captions = [caption for picture in found for caption in picture.captions]
        [picture.open() for picture in found]
    assert "secret caption" not in captions
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("change", [{"crop_pct": 1e-4}, {"crop_pct": 5e-324}, {"std": [1e-300, 0.5, 0.5]}])
def test_a_preprocessing_that_fills_the_memory_or_divides_by_nothing(change):
    [name] = change
    with pytest.raises(ValueError, match=name):
        Preprocessing.from_json({**Preprocessing(height=24, width=24).to_json(), **change})


def test_an_encoder_whose_first_pass_fails(saved, tmp_path):
    folder = _copy(saved, tmp_path)
    described = json.loads((folder / "vision.json").read_text())
    described["architecture"]["beit"]["norm_eps"] = None
    (folder / "vision.json").write_text(json.dumps(described))
    _fit_checksums(folder)
    with pytest.raises(ValueError, match=r"vision\.json'.*encoder.*NoneType"):
        attach_vision(folder)


def test_a_projection_that_claims_more_than_it_holds(tmp_path):
    """A safetensors header of a few bytes that claims a terabyte."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2**20, 2**18], "data_offsets": [0, 2**40]}}).encode()
    path = tmp_path / "proj.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=r"proj\.safetensors'.*damaged"):
        load_linear(path)


def test_a_checkpoint_with_an_entry_outside_of_it(tmp_path):
    path = tmp_path / "proj.ckpt"
    torch.save({"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped.txt", "x")
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(ValueError, match=r"proj\.ckpt'.*damaged"):
        load_linear(path)
    assert sorted(tmp_path.parent.rglob("*")) == before


def _copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "lens"))


def _fit_checksums(folder: Path) -> None:
    card = json.loads((folder / "lens.json").read_text())
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("README.md", "lens.json")]
    card["files"] = {p.relative_to(folder).as_posix(): digest_of_file(p) for p in files}
    (folder / "lens.json").write_text(json.dumps(card))


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, format="PNG")
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
