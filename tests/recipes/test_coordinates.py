"""The coordinates of the projection's training: found from captions alone, and multiplied out without a change."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recipes.tiny.coordinates import Coordinates, caption_coordinates
from recipes.tiny.oracle import GivenFeatures, OracleBatch
from tests.recipes.test_scenes import seeded

NOUNS = ["cat", "dog", "sun", "cup", "key"]
PATCHES, WIDTH = 9, 16


def scenes(batch: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of scenes that show one noun at two of nine patches, the nouns and the patches."""
    generator = seeded(seed)
    directions = torch.randn(len(NOUNS), WIDTH, generator=seeded(99))
    features = torch.randn(batch, PATCHES, WIDTH, generator=generator)
    nouns = torch.randint(len(NOUNS), (batch,), generator=generator)
    patches = torch.rand(batch, PATCHES, generator=generator).argsort(dim=1)[:, :2]
    features[torch.arange(batch)[:, None], patches] += 2 * directions[nouns][:, None]
    return features, nouns, patches


def batches() -> Iterator[OracleBatch]:
    seed = 0
    while True:
        features, nouns, _ = scenes(64, seed=seed)
        yield OracleBatch(pixels=features, captions=[f" a {NOUNS[noun]}" for noun in nouns.tolist()])
        seed += 1


def test_single_patches_speak_for_the_nouns_of_the_captions_and_the_others_are_quiet() -> None:
    found = caption_coordinates(GivenFeatures(d_vision=WIDTH, side=3), batches(), NOUNS, scenes=4096)
    features, nouns, patches = scenes(500, seed=10**6)
    scores = (features - found.mean) @ found.axes
    shown = scores[torch.arange(500)[:, None], patches]
    assert (shown.argmax(dim=-1) == nouns[:, None]).float().mean() > 0.9
    elsewhere = torch.ones(500, PATCHES, dtype=torch.bool).scatter(1, patches, False)
    assert scores[elsewhere].amax(dim=-1).mean() < 0.5 * shown.amax(dim=-1).mean()


def test_coordinates_are_the_least_squares_of_single_patches() -> None:
    encoder = GivenFeatures(d_vision=WIDTH, side=3)
    found = caption_coordinates(encoder, batches(), NOUNS, scenes=128)
    source = batches()
    read = [next(source) for _ in range(2)]
    patches = torch.cat([batch.pixels for batch in read]).double().flatten(0, 1)
    captions = [caption for batch in read for caption in batch.captions for _ in range(PATCHES)]
    truth = torch.tensor([[float(noun in caption) for noun in NOUNS] for caption in captions], dtype=torch.float64)
    known = torch.cat([patches, torch.ones(len(patches), 1, dtype=torch.float64)], dim=1)
    slopes = torch.linalg.lstsq(known, truth).solution[:WIDTH]
    torch.testing.assert_close(found.mean.double(), patches.mean(0), rtol=1e-5, atol=1e-6)
    by_size = slopes / ((patches - patches.mean(0)) @ slopes).std(0, correction=0).mean()
    torch.testing.assert_close(found.axes.double(), by_size, rtol=1e-3, atol=1e-3)


def test_a_folded_map_of_features_is_the_map_of_coordinates() -> None:
    found = Coordinates(mean=torch.randn(WIDTH, generator=seeded()), axes=torch.randn(WIDTH, 5, generator=seeded(1)))
    linear = nn.Linear(5, 7)
    features = torch.randn(4, WIDTH, generator=seeded(2))
    inside = linear((features - found.mean) @ found.axes)
    torch.testing.assert_close(found.fold(linear)(features), inside, rtol=1e-4, atol=1e-4)
