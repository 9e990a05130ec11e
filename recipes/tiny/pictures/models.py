"""3-D models seen from a side: surface samples, a depth buffer and a lamp beside the camera; numpy alone, no OpenGL."""

import io
import zipfile
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import trimesh
from jaxtyping import Float
from PIL import Image

from recipes.tiny.pictures.drawing import Unusable

TILT = 18.0
"""The camera looks down by this many degrees."""
SAMPLES = 3.0
"""Surface samples per pixel of projected area."""
GREY = (160, 160, 160)
"""Of surfaces without a material."""
Colours = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Archive(trimesh.resolvers.Resolver):
    """Files beside an OBJ inside a zip, as trimesh requests them."""

    def __init__(self, path: str, folder: str) -> None:
        self.path, self.folder = path, folder

    def get(self, name: str) -> bytes:
        """Bytes of a file beside the model; the case and folder of its name are ignored. Raises: KeyError if absent."""
        last = name.replace("\\", "/").rpartition("/")[2].strip().lower()
        beside = [key for key in self.keys() if key.lower().endswith("/" + last)]
        if not beside:
            raise KeyError(f"{name} is not beside the model in {self.path}:{self.folder}")
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(beside[0])

    def keys(self) -> list[str]:
        with zipfile.ZipFile(self.path) as archive:
            return [name for name in archive.namelist() if name.startswith(self.folder + "/")]

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError("Models are only read.")

    def namespaced(self, namespace: str) -> "Archive":
        return Archive(self.path, f"{self.folder}/{namespace}")


def view(content: str, *, side: float, size: int) -> Image.Image:
    """A model (`catalogue.zip::member.obj`) seen from `side` degrees around the vertical, slightly from above.

    Returns: RGBA, transparent around the object, about twice `size` on a side.
    Raises: Unusable if the model cannot be read.
    """
    corners, colours = _triangles(content)
    seen = corners @ _camera(side).T
    span = max(np.ptp(seen[..., 0]), np.ptp(seen[..., 1]), 1e-9)
    pixels = size * 3 // 2
    flat = (seen[..., :2] - [seen[..., 0].min(), seen[..., 1].min()]) * ((pixels - 3) / span) + 1
    which, weights = _samples(flat)
    points = np.einsum("sk,skd->sd", weights, flat[which])
    depth = np.einsum("sk,sk->s", weights, seen[which, :, 2])
    paint = colours(which, weights) * _light(seen)[which, None]
    cell = (pixels - 1 - points[:, 1].astype(int)) * pixels + points[:, 0].astype(int)
    near = ((depth - depth.min()) * (65535 / max(np.ptp(depth), 1e-9))).astype(np.uint16)
    order = np.argsort(near, kind="stable")  # the nearest is written last; 16 bits sort in linear time
    canvas = np.zeros((pixels * pixels, 4), np.uint8)
    canvas[cell[order], :3] = paint[order].clip(0, 255).astype(np.uint8)
    canvas[cell[order], 3] = 255
    return Image.fromarray(canvas.reshape(pixels, pixels, 4), "RGBA")


def _camera(side: float) -> Float[np.ndarray, "3 3"]:
    """Rows: right, up and towards the camera, for a model whose vertical is y."""
    turn, tilt = np.radians(side), np.radians(TILT)
    around = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
    down = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    return down @ around


def _samples(flat: Float[np.ndarray, "t 3 2"]) -> tuple[np.ndarray, Float[np.ndarray, "s 3"]]:
    """Triangles of the samples and their barycentric weights, as dense as the projected area requires; not random."""
    a, b = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    longest = np.sqrt(np.maximum((a**2).sum(1), (b**2).sum(1)))
    which = np.repeat(np.arange(len(flat)), np.ceil(area * SAMPLES + longest).astype(int) + 1)
    # an additive recurrence fills the unit square evenly without a lattice
    steps = np.arange(len(which))
    u, v = (0.5 + steps * 0.7548776662466927) % 1, (0.5 + steps * 0.5698402909980532) % 1
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    return which, np.stack([1 - u - v, u, v], 1)


def _light(seen: Float[np.ndarray, "t 3 3"]) -> Float[np.ndarray, " t"]:
    """Brightness of each triangle under a lamp above and to the left of the camera; both faces are lit."""
    normal = np.cross(seen[:, 1] - seen[:, 0], seen[:, 2] - seen[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
    normal *= np.sign(normal[:, 2:] + 1e-9)
    lamp = np.array([-0.4, 0.6, 0.7]) / np.linalg.norm([-0.4, 0.6, 0.7])
    return 0.55 + 0.55 * (normal @ lamp).clip(0)


@lru_cache(maxsize=4)
def _triangles(content: str) -> tuple[Float[np.ndarray, "t 3 3"], Colours]:
    """Corners of all triangles, and a function from (triangle, weights) to colours from 0 to 255."""
    path, _, member = content.partition("::")
    resolver = Archive(path, member.rpartition("/")[0])
    try:
        with zipfile.ZipFile(path) as archive:
            raw = archive.read(member)
        scene = trimesh.load_scene(io.BytesIO(raw), file_type="obj", resolver=resolver, process=False)
        meshes = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except (KeyError, ValueError, IndexError, OSError, AttributeError) as broken:
        raise Unusable("unreadable") from broken
    if not meshes:
        raise Unusable("nearly empty")
    corners = np.concatenate([mesh.vertices[mesh.faces] for mesh in meshes]).astype(np.float64)
    starts = np.cumsum(np.array([0] + [len(mesh.faces) for mesh in meshes]))
    paints = [_paint(mesh) for mesh in meshes]

    def colours(which: np.ndarray, weights: np.ndarray) -> np.ndarray:
        painted = np.empty((len(which), 3))
        mesh = np.searchsorted(starts, which, side="right") - 1
        for index, paint in enumerate(paints):
            mine = mesh == index
            painted[mine] = paint(which[mine] - starts[index], weights[mine])
        return painted

    return corners, colours


def _paint(mesh: trimesh.Trimesh) -> Colours:
    """Colour of a point on a mesh: its texture where it has one, else its material's colour."""
    material = getattr(mesh.visual, "material", None)
    uv, image = getattr(mesh.visual, "uv", None), getattr(material, "image", None)
    if image is not None and uv is not None and len(uv) == len(mesh.vertices):
        texture = np.asarray(image.convert("RGB"), np.float64)
        corner_uv = np.asarray(uv)[mesh.faces]

        def textured(face: np.ndarray, weights: np.ndarray) -> np.ndarray:
            at = np.einsum("sk,skd->sd", weights, corner_uv[face])
            row = ((1 - at[:, 1] % 1) * (len(texture) - 1)).astype(int)
            column = ((at[:, 0] % 1) * (texture.shape[1] - 1)).astype(int)
            return texture[row, column]

        return textured
    diffuse = getattr(material, "diffuse", None)
    colour = np.asarray(GREY if diffuse is None else diffuse[:3], np.float64)

    def plain(face: np.ndarray, weights: np.ndarray) -> np.ndarray:  # noqa: ARG001
        return np.broadcast_to(colour, (len(face), 3))

    return plain
