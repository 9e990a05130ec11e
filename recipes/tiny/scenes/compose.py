"""Scenes composed from cut-outs, many at once, with an exact label map."""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from recipes.tiny.scenes.backgrounds import backgrounds
from recipes.tiny.scenes.cutouts import CutOuts

SLOTS = 3
"""Most objects in a scene."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How far an object's picture is distorted and recoloured; 0 switches a change off."""

    rotate: float = 15.0
    """Largest rotation in degrees."""
    shear: float = 0.1
    perspective: float = 0.1
    stretch: float = 0.1
    """Largest change of width against height, as a logarithm."""
    warp: float = 0.0
    """Largest sideways wave, as a share of the object's half width."""
    hue: float = 0.03
    """Largest shift of the hue, as a share of the colour circle."""
    saturation: float = 0.3
    brightness: float = 0.12
    contrast: float = 0.2
    grey: float = 0.0
    """Share of objects without colour."""
    blur: float = 0.5
    noise: float = 0.02
    """Largest standard deviation of the pixel noise."""


NATURAL = Look()
"""For shipped scenes, probes and the projection."""
STRONG = Look(
    rotate=20, shear=0.15, perspective=0.15, stretch=0.15, warp=0.08, hue=0.06, saturation=0.4, brightness=0.15,
    contrast=0.3, grey=0.05, blur=0.6, noise=0.03,
)  # fmt: skip
"""For training the encoder."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Composed scenes; object k of a scene lies over the objects before it."""

    image: Tensor
    """Pixels in [0, 1]; shape (scene, 3, size, size)."""
    label: Tensor
    """0 background, k + 1 where object k is on top; int64, shape (scene, size, size)."""
    pictures: Tensor
    """Row of `pictures.csv` for each object, -1 where there is none; shape (scene, 3)."""
    centres: Tensor
    """Mean (x, y) of the visible pixels, as shares of the side; NaN if nothing is visible; (scene, 3, 2)."""
    areas: Tensor
    """Visible pixels of each object; shape (scene, 3)."""
    without: Tensor | None = None
    """The scene without object k, or as it is where there is none; shape (scene, 3, 3, size, size).

    Only `compose_with_removals` makes it.
    """

    def rows(self, chosen: slice) -> "Scenes":
        """Some of the scenes."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Scenes(**{name: part if part is None else part[chosen] for name, part in parts.items()})


def compose(cutouts: CutOuts, pictures: Tensor, *, size: int, generator: Generator, look: Look = NATURAL) -> Scenes:
    """One scene for each row of `pictures`: where and how its objects lie is random.

    Args:
        pictures: int64 (scene, 3), ids of loaded cut-outs, -1 for no object, objects first.
        size: side of the scene in pixels.
        generator: all randomness; on the device of the cut-outs.
    Raises: ValueError if `pictures` has another shape or names a picture that is not loaded.
    """
    ground, layers, present = _parts(cutouts, pictures, size=size, generator=generator, look=look)
    image, label = stack(ground, layers, present)
    image = _through(_lens(image, generator, look), image)
    areas, centres = measure(label)
    return Scenes(image=image, label=label, pictures=pictures, centres=centres, areas=areas)


def compose_with_removals(
    cutouts: CutOuts, pictures: Tensor, *, size: int, generator: Generator, look: Look = NATURAL
) -> Scenes:
    """The same scenes as `compose`, each composed again without each of its objects, in `without`.

    Background, other objects, blur and noise are identical bit for bit; only the object differs.
    """
    ground, layers, present = _parts(cutouts, pictures, size=size, generator=generator, look=look)
    image, label = stack(ground.clone(), layers, present)
    lens = _lens(image, generator, look)
    without = []
    for slot in range(SLOTS):
        others = present.clone()
        others[:, slot] = False
        less, _ = stack(ground.clone(), layers[others[present]], others)
        without.append(_through(lens, less))
    areas, centres = measure(label)
    return Scenes(
        image=_through(lens, image),
        label=label,
        pictures=pictures,
        centres=centres,
        areas=areas,
        without=torch.stack(without, dim=1),
    )


def choose(pool: Tensor, counts: Tensor, *, generator: Generator) -> Tensor:
    """Random pictures of a pool for scenes of `counts` objects: ids (scene, 3), -1 for no object."""
    drawn = torch.randint(len(pool), (len(counts), SLOTS), generator=generator, device=pool.device)
    return pool[drawn].masked_fill(torch.arange(SLOTS, device=pool.device) >= counts[:, None], -1)


def arrange(present: Tensor, *, generator: Generator, tries: int = 6) -> tuple[Tensor, Tensor]:
    """Sizes (scene, 3) as shares of the side, and centres (scene, 3, 2) in [-1, 1].

    The least overlapping of `tries` arrangements, so that objects sometimes cover one another.
    """
    count, device = len(present), present.device
    largest = torch.tensor([0.9, 0.62, 0.52], device=device)[present.sum(dim=1).clamp(min=1) - 1]
    smallest = torch.tensor([0.45, 0.35, 0.35], device=device)[present.sum(dim=1).clamp(min=1) - 1]
    uniform = torch.rand(count, SLOTS, generator=generator, device=device)
    sizes = smallest[:, None] + (largest - smallest)[:, None] * uniform
    room = (1.04 - sizes)[:, None, :, None]
    places = room * (2 * torch.rand(count, tries, SLOTS, 2, generator=generator, device=device) - 1)
    apart = (places[:, :, :, None] - places[:, :, None, :]).abs().amax(dim=-1)
    touching = (sizes[:, :, None] + sizes[:, None, :])[:, None]
    pairs = (present[:, :, None] & present[:, None, :]).triu(1)[:, None]
    overlap = ((touching - apart).clamp(min=0) * pairs).sum(dim=(2, 3))
    best = overlap.argmin(dim=1)
    return sizes, places[torch.arange(count, device=device), best]


def draw_objects(
    cutouts: CutOuts, ids: Tensor, sizes: Tensor, places: Tensor, *, size: int, generator: Generator, look: Look
) -> Tensor:
    """Each object alone on an empty frame: premultiplied RGBA in [0, 1], shape (object, 4, size, size)."""
    grid = object_grid(sizes, places, size=size, generator=generator, look=look)
    matrix, offset = colour_change(len(ids), generator=generator, look=look)
    rows = cutouts.rows(ids)
    level = (cutouts.side / (sizes * size)).log2().round().clamp(0, len(cutouts.levels) - 1)
    layers = grid.new_empty(len(ids), 4, size, size)
    for depth, pictures in enumerate(cutouts.levels):
        here = (level == depth).nonzero()[:, 0]
        if len(here):
            source = pictures[rows[here]].to(grid.dtype).mul_(1 / 255)
            layers[here] = F.grid_sample(source, grid[here], align_corners=False)
    alpha = layers[:, 3]
    rgb = torch.baddbmm(offset[:, :, None] * alpha.flatten(1)[:, None], matrix, layers[:, :3].flatten(2)).view(
        len(ids), 3, size, size
    )
    layers[:, :3] = rgb.clamp_(min=0).minimum(alpha[:, None])
    return layers


def object_grid(sizes: Tensor, places: Tensor, *, size: int, generator: Generator, look: Look) -> Tensor:
    """Where each pixel of the frame lies in an object's own square; shape (object, size, size, 2)."""
    count, device = len(sizes), sizes.device
    spread = 2 * torch.rand(count, 11, generator=generator, device=device) - 1
    turn = spread[:, 0] * math.radians(look.rotate)
    flip = spread[:, 1].sign()
    narrow = (spread[:, 2] * look.stretch).exp()
    shear = spread[:, 3] * look.shear
    cos, sin = turn.cos() / sizes, turn.sin() / sizes
    xx, xy = flip * narrow * (cos + shear * sin), flip * narrow * (sin - shear * cos)
    axis = (torch.arange(size, device=device) + 0.5) * 2 / size - 1
    x, y = axis[None, :] - places[:, :1], axis[None, :] - places[:, 1:]
    across = xx[:, None, None] * x[:, None, :] + xy[:, None, None] * y[:, :, None]
    down = cos[:, None, None] * y[:, :, None] - sin[:, None, None] * x[:, None, :]
    if look.perspective:
        tilt = look.perspective * spread[:, 4:6, None, None]
        depth = (1 + tilt[:, 0] * across + tilt[:, 1] * down).clamp_(min=0.3)
        across, down = across / depth, down / depth
    if look.warp:
        height, bends, phase = look.warp * spread[:, 6:8], 2.5 + 1.5 * spread[:, 8:9], math.pi * spread[:, 9:11]
        wave = [
            height[:, i, None, None] * (bends[:, :, None] * line + phase[:, i, None, None]).sin_()
            for i, line in enumerate((down, across))
        ]
        across, down = across + wave[0], down + wave[1]
    return torch.stack([across, down], dim=-1)


def colour_change(count: int, *, generator: Generator, look: Look) -> tuple[Tensor, Tensor]:
    """Matrix (object, 3, 3) and offset (object, 3) that change hue, saturation, contrast and brightness."""
    device = generator.device
    spread = 2 * torch.rand(count, 5, generator=generator, device=device) - 1
    hue = 2 * math.pi * look.hue * spread[:, 0]
    colourless = (spread[:, 4] + 1) / 2 < look.grey
    saturation = torch.where(colourless, 0.0, 1 + look.saturation * spread[:, 1])
    contrast = (look.contrast * spread[:, 2]).exp()
    grey = torch.full((3, 3), 1 / 3, device=device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / math.sqrt(3)
    cos, sin = hue.cos()[:, None, None], hue.sin()[:, None, None]
    turned = cos * (torch.eye(3, device=device) - grey) + sin * cross
    matrix = contrast[:, None, None] * (grey + saturation[:, None, None] * turned)
    offset = look.brightness * spread[:, 3] + 0.5 * (1 - contrast)
    return matrix, offset[:, None].expand(-1, 3)


def stack(image: Tensor, layers: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the objects over their backgrounds in order; `image` is changed.

    Args:
        layers: premultiplied RGBA of the present objects, by scene and then by slot.
        present: bool (scene, 3).
    Returns: the image and its label map; an object owns a pixel where its alpha is above one half.
    """
    label = torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.int64, device=image.device)
    position = present.flatten().cumsum(0).view_as(present) - 1
    for slot in range(present.shape[1]):
        scenes = present[:, slot].nonzero()[:, 0]
        if len(scenes) == 0:
            continue
        layer = layers[position[scenes, slot]]
        alpha = layer[:, 3]
        image[scenes] = image[scenes].mul_(1 - alpha[:, None]).add_(layer[:, :3])
        label[scenes] = label[scenes].masked_fill_(alpha > 0.5, slot + 1)
    return image, label


def measure(label: Tensor) -> tuple[Tensor, Tensor]:
    """Visible pixels (scene, 3) and their mean place (scene, 3, 2), NaN where nothing is visible."""
    size = label.shape[-1]
    one_hot = (label[:, None] == torch.arange(1, SLOTS + 1, device=label.device)[:, None, None]).float()
    columns, rows = one_hot.sum(dim=2), one_hot.sum(dim=3)
    areas = rows.sum(dim=2)
    axis = (torch.arange(size, device=label.device) + 0.5) / size
    centres = torch.stack([columns @ axis, rows @ axis], dim=-1) / areas[..., None]
    return areas.long(), centres


@dataclass(frozen=True, kw_only=True)
class _Lens:
    """Blur of up to three pixels and noise, different for each scene."""

    blur: Tensor
    """Share of the blurred picture; shape (scene,)."""
    noise: Tensor
    """Standard deviation of the grain; shape (scene,)."""
    grain: Tensor | None
    """Standard normal, shape (scene, 3, size, size); None for no noise."""


def _lens(image: Tensor, generator: Generator, look: Look) -> _Lens:
    amount = torch.rand(len(image), 2, generator=generator, device=image.device)
    grain = torch.randn(image.shape, generator=generator, device=image.device) if look.noise else None
    return _Lens(blur=look.blur * amount[:, 0].square(), noise=look.noise * amount[:, 1], grain=grain)


def _through(lens: _Lens, image: Tensor) -> Tensor:
    """The scenes as a camera shows them, with blur and grain; `image` is changed."""
    if lens.blur.any():
        soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        image = torch.lerp(image, soft, lens.blur[:, None, None, None])
    if lens.grain is not None:
        image = image.addcmul_(lens.grain, lens.noise[:, None, None, None])
    return image.clamp_(0, 1)


def _parts(
    cutouts: CutOuts, pictures: Tensor, *, size: int, generator: Generator, look: Look
) -> tuple[Tensor, Tensor, Tensor]:
    """Backgrounds, premultiplied layers of the present objects, and which objects are present."""
    if pictures.ndim != 2 or pictures.shape[1] != SLOTS:
        raise ValueError(f"pictures has shape {tuple(pictures.shape)}, expected (scenes, {SLOTS}), -1 for none")
    present = pictures >= 0
    sizes, places = arrange(present, generator=generator)
    flat = present.flatten()
    layers = draw_objects(
        cutouts,
        pictures.flatten()[flat],
        sizes.flatten()[flat],
        places.flatten(0, 1)[flat],
        size=size,
        generator=generator,
        look=look,
    )
    return backgrounds(len(pictures), size=size, generator=generator), layers, present
