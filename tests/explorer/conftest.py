"""The explorer of a small random lens, queried as its page queries it."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the explorer needs fastapi: pip install 'lens-multimodal[explore]'")

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from lens_multimodal import VisionLens
from lens_multimodal.atlas import Atlas
from lens_multimodal.data import read_coco
from lens_multimodal.explorer import Limits, create_app
from lens_multimodal.tiny import scenes_folder
from lens_multimodal.views.atlas import write_site
from tests.atlas.atlas_world import atlas_of, world_scenes
from tests.lenses import picture, random_lens
from tests.models import MODEL_CLASSES

TEXT = "a dog"
LIMITS = Limits(upload_bytes=200_000, upload_pixels=250_000, uploads_held=3, samples_held=3, new_tokens=6)


@dataclass(frozen=True)
class Page:
    """A client that knows the token, as the page does."""

    client: TestClient

    @property
    def token(self) -> str:
        return re.search(r'name="explorer-token" content="([^"]+)"', self.client.get("/").text)[1]

    def post(self, path: str, **question: Any):
        return self.client.post(path, json=question, headers={"x-explorer-token": self.token})

    def upload(self, data: bytes, kind: str = "image/png"):
        headers = {"x-explorer-token": self.token, "content-type": kind}
        return self.client.post("/api/pictures", content=data, headers=headers)

    def ask(self, path: str, **question: Any) -> Any:
        response = self.post(path, **question)
        assert response.status_code == 200, response.text
        return response.json()

    def place(self, picture: str, index: int) -> dict[str, Any]:
        """A word of a picture's caption and where it stands."""
        ids = [word["token_id"] for word in self.ask("/api/look", picture=picture, text=TEXT)["caption"]["words"]]
        return {"text": TEXT, "before": ids[:index], "target": ids[index]}


@pytest.fixture(scope="module")
def lens(tmp_path_factory) -> VisionLens:
    """Captions of this random lens have several words for the first sample scenes.

    On TransformerLens 3 its model is a `HookedTransformer`, on 4 a `TransformerBridge`.
    """
    kind = "hooked" if "hooked" in MODEL_CLASSES else "bridge"
    return random_lens(tmp_path_factory.mktemp("lens"), kind=kind)


@pytest.fixture(scope="module")
def scenes():
    return read_coco(scenes_folder())[:6]


@pytest.fixture
def page(lens, scenes) -> Page:
    return Page(TestClient(create_app(lens, scenes=scenes, limits=LIMITS), base_url="http://127.0.0.1:8000"))


@pytest.fixture
def two(page) -> tuple[str, str]:
    """Two uploaded pictures."""
    return tuple(page.upload(png(picture(seed))).json()["id"] for seed in (0, 1))


def atlas_with_site(lens: VisionLens, home: Path, *, n_neurons: int) -> Atlas:
    """Of two of the three layers, with pages for some of the neurons."""
    scenes = world_scenes(home / "pictures", 9)
    made = atlas_of(lens, scenes, home / "out", layers=[0, 2])
    write_site(made, scenes, n_neurons=n_neurons, progress=False)
    return made


def png(picture: Image.Image) -> bytes:
    return in_format(picture, "PNG")


def in_format(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


def fingerprint(lens: VisionLens) -> tuple[str, tuple[tuple[str, int], ...]]:
    """Every weight of the three parts, and how many hooks every module has."""
    digest, hooks = hashlib.sha256(), []
    for part in (lens.model, lens.vision, lens.projection):
        for name, value in sorted(part.state_dict().items()):
            digest.update(name.encode() + np.ascontiguousarray(value.detach().numpy()).tobytes())
        for name, module in part.named_modules():
            kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            own = sum(len(getattr(module, kind)) for kind in kinds)
            own += sum(len(getattr(module, kind, ())) for kind in ("fwd_hooks", "bwd_hooks"))
            hooks.append((name, own))
    return digest.hexdigest(), tuple(hooks)
