"""Controls for a picture: parts of the lens with random weights, another picture, the mean image vector."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis import mean_image_vector
from lens_multimodal.data import Scene
from lens_multimodal.experiments.shared.context import Context
from lens_multimodal.image.pictures import picture_batches
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.image_embedder import ImageEmbedder
from lens_multimodal.seeds import generator_for, seed_for


def with_random_weights(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of a module with its parameters redrawn from normal distributions of the same mean and standard deviation.

    Activations keep their scale; only what was learned is lost.
    """
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            values = parameter.float().cpu()
            spread = values.std(unbiased=False)
            noise = torch.randn(values.shape, generator=generator)
            parameter.copy_((noise * spread + values.mean()).to(parameter))
    return twin.requires_grad_(False).eval()


def random_projection(context: Context[Any]) -> ImageEmbedder:
    """The lens' images through a projection with random weights; the same for all pictures and experiments of a run."""
    return context.once("random projection", lambda: _with_random(context, "random projection", -1))


def random_encoder(context: Context[Any]) -> ImageEmbedder:
    """The lens' images through an encoder with random weights; the same for all pictures."""
    return context.once("random encoder", lambda: _with_random(context, "random encoder", 0))


def _with_random(context: Context[Any], purpose: str, which: int) -> ImageEmbedder:
    images, generator = context.picture.lens.images, generator_for(context.picture.seed, purpose)
    name = list(images.parts)[which]
    return images.replaced(name, with_random_weights(images.parts[name], generator))


def untrained_lens(context: Context[Any]) -> VisionLens:
    """A lens with the same encoder and projection on an untrained language model."""
    lens = context.picture.lens

    def make() -> VisionLens:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(context.picture.seed, "untrained language model"))
            model = transformer.untrained(lens.model, tokenizer=lens.tokenizer)
        like, made = transformer.w_e(lens.model), transformer.w_e(model)
        if (made.device, made.dtype) != (like.device, like.dtype):
            transformer.move(model, device=like.device, dtype=like.dtype)
        return VisionLens(model, images=lens.images, tokenizer=lens.tokenizer)

    return context.once("untrained language model", make)


@torch.no_grad()
def vectors_of(
    images: ImageEmbedder, pictures: Iterable[Image.Image], *, batch_size: int
) -> Iterator[Float[Tensor, "pos d_model"]]:
    """Image vectors of some pictures, encoded in batches."""
    for batch in picture_batches(pictures, batch_size=batch_size, progress=False):
        yield from images.vectors(batch)


def through_random_projection(context: Context[Any]) -> Float[Tensor, "pos d_model"]:
    """The picture's image vectors through the projection with random weights, computed once for each picture."""
    return context.picture.once(
        "random projection", lambda: next(vectors_of(random_projection(context), [context.picture.image], batch_size=1))
    )


def blank(picture: Image.Image) -> Image.Image:
    """A grey picture of the same size."""
    return Image.new("RGB", picture.size, (128, 128, 128))


def partner_picture(scenes: Sequence[Scene], scene: Scene, seed: int) -> Image.Image | None:
    """Another picture of the data set that shows none of the scene's categories; None if none can be read.

    It depends only on the seed and the scene.
    """
    order = torch.randperm(len(scenes), generator=generator_for(seed, "partner", scene.id)).tolist()
    own = set(scene.categories)
    others = (scenes[i] for i in order if scenes[i].id != scene.id and not own & set(scenes[i].categories))
    return next(_readable(others), None)


def mean_vector(context: Context[Any], over: int) -> Float[Tensor, " d_model"]:
    """Mean image vector over some pictures of the data set, the same for every picture (Neo et al. 2024)."""
    picture = context.picture

    def make() -> Tensor:
        generator = generator_for(picture.seed, "follow_ups", "mean vector")
        order = torch.randperm(len(context.scenes), generator=generator)
        pictures = islice(_readable(context.scenes[index] for index in order.tolist()), over)
        return mean_image_vector(picture.lens, pictures, batch_size=picture.batch_size)

    return context.once("follow_ups.mean vector", make).to(picture.vectors)


def _readable(scenes: Iterable[Scene]) -> Iterator[Image.Image]:
    for scene in scenes:
        try:
            picture = scene.open()
        except (OSError, ValueError):
            continue
        yield picture
