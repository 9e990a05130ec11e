"""The pictures of one explorer: sample scenes by number, uploads in memory, nothing on disk."""

import io
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from lens_multimodal.data.coco import Scene
from lens_multimodal.explorer.limits import Limits
from lens_multimodal.image.pictures import PictureTooLarge, read_picture
from lens_multimodal.latest import Latest
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.image_prompt import EmbeddedImage

FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats of an upload, recognised by its content."""

SHOWN_SIDE = 512
"""Longest side, in pixels, of the copy on the page; the model sees the full picture."""


class UnknownPicture(LookupError):
    """No sample has this id, or the upload is no longer held."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample scene as the gallery lists it."""

    id: str
    label: str
    """The nouns of the scene."""
    drawings: str
    """`known` or `held_out`: whether the encoder's training saw these drawings; empty if unknown."""


class Pictures:
    """Pictures by id: `sample-<number>` for the given scenes, `upload-<random>` for files dropped on the page.

    Only ids made here are looked up, so no request can name a file.
    """

    def __init__(self, lens: VisionLens, scenes: Sequence[Scene], limits: Limits) -> None:
        self._lens = lens
        self._limits = limits
        self._scenes = {f"sample-{scene.id}": scene for scene in scenes}
        self._lock = threading.Lock()
        self._uploads: Latest[str, EmbeddedImage] = Latest(limits.uploads_held, forget=self._forget)
        self._encoded: Latest[str, EmbeddedImage] = Latest(limits.samples_held, forget=self._forget)

    @property
    def samples(self) -> list[Sample]:
        """All sample scenes, in their own order."""
        return [
            Sample(id=name, label=", ".join(scene.categories), drawings=str(scene.extra.get("drawings", "")))
            for name, scene in self._scenes.items()
        ]

    def add(self, picture: Image.Image) -> str:
        """Encode and hold a picture and return its id. The caller holds the model's lock."""
        name = f"upload-{secrets.token_hex(16)}"
        encoded = self._encode(picture)
        with self._lock:
            self._uploads.put(name, encoded)
        return name

    def get(self, name: str) -> EmbeddedImage:
        """A picture as the language model sees it. The caller holds the model's lock.

        Raises: UnknownPicture.
        """
        with self._lock:
            held = self._uploads.find(name) or self._encoded.find(name)
        if held is None:
            held = self._encode(self._scene(name).open())
            with self._lock:
                self._encoded.put(name, held)
        return held

    def is_sample(self, name: str) -> bool:
        """Whether the picture is one of the sample scenes."""
        return name in self._scenes

    def png(self, name: str) -> bytes:
        """The picture for the page.

        Raises: UnknownPicture.
        """
        with self._lock:
            held = self._uploads.find(name)
        picture = held.picture if held is not None else thumbnail(self._scene(name).open(), SHOWN_SIDE)
        assert picture is not None
        return as_png(picture)

    def __len__(self) -> int:
        """Number of encoded pictures in memory."""
        return len(self._uploads) + len(self._encoded)

    def _encode(self, picture: Image.Image) -> EmbeddedImage:
        [image] = self._lens.embed([picture])
        return replace(image, picture=thumbnail(picture, SHOWN_SIDE))

    def _forget(self, image: EmbeddedImage) -> None:
        self._lens.virtual_tokens.forget(image.soft_prompt)

    def _scene(self, name: str) -> Scene:
        if name not in self._scenes:
            raise UnknownPicture(
                "this picture is no longer in memory: choose a sample scene, or upload the picture again"
            )
        return self._scenes[name]


def read_upload(data: bytes, limits: Limits) -> Image.Image:
    """Bytes from the page as an RGB picture.

    Raises:
        PictureTooLarge: more bytes or, by its header, more pixels than allowed; nothing is decoded then.
        NotAPicture: none of `FORMATS`, or damaged.
    """
    if len(data) > limits.upload_bytes:
        raise PictureTooLarge(f"the file has {len(data):,} bytes, more than the {limits.upload_bytes:,} allowed")
    return read_picture(io.BytesIO(data), name="the upload", formats=FORMATS, max_pixels=limits.upload_pixels)


def as_png(picture: Image.Image) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """A copy, its longer side at most `side` pixels."""
    copy = picture.copy()
    copy.thumbnail((side, side))
    return copy
