"""Masks against pycocotools, and segmentations that give no mask."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from lens_multimodal.data.segmentation import check, decode, uncompressed
from tests.data.coco_folders import HEIGHT, TRIANGLE, WIDTH, blob, run_lengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

SIDES = {"height": HEIGHT, "width": WIDTH}


def runs(counts: Any) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def compressed(mask: np.ndarray) -> str:
    counts: bytes = rle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode()


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_in_every_form_give_back_their_mask(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((HEIGHT, WIDTH)) < random.random()
    mask[:, : random.integers(0, WIDTH)] = random.random() < 0.5
    counts = run_lengths(mask)
    text = compressed(mask)
    assert uncompressed(text) == counts
    for form in (counts, text, text.encode()):
        np.testing.assert_array_equal(decode(runs(form), **SIDES), mask)


@pytest.mark.parametrize("seed", range(20))
def test_polygons_are_filled_as_pycocotools_fills_them(seed: int) -> None:
    """Several parts, some of them outside of the picture, and some without an inside."""
    random = np.random.default_rng(seed)
    parts = [random.uniform(-5, 45, 2 * int(random.integers(3, 9))).tolist() for _ in range(int(random.integers(1, 4)))]
    filled = rle.decode(rle.merge(rle.frPyObjects(parts, HEIGHT, WIDTH))).astype(bool)
    np.testing.assert_array_equal(decode([*parts, [1.0, 2.0], [], [3, 4, 30, 20]], **SIDES), filled)
    if filled.any():
        check(parts, **SIDES)


@pytest.mark.parametrize("seed", range(200))
def test_a_mask_without_pixels_is_never_taken_for_one(seed: int) -> None:
    """Small, thin and distant polygons: `check` agrees with the filled mask."""
    random = np.random.default_rng(seed)
    centre, reach = random.uniform(-5, 45, 2), random.choice([0.3, 1.0, 3.0, 20.0], 2)
    polygon = (centre + reach * random.uniform(-1, 1, (int(random.integers(3, 7)), 2))).reshape(-1).tolist()
    if decode([polygon], **SIDES).any():
        check([polygon], **SIDES)
    else:
        with pytest.raises(ValueError, match="pixel"):
            check([polygon], **SIDES)


TEXT = compressed(blob(1))

MALFORMED: dict[str, tuple[Any, str]] = {
    "sides exchanged": ({"size": [WIDTH, HEIGHT], "counts": "abc"}, r"\[40, 30\].*\[30, 40\]"),
    "too short, listed": (runs([5, 10]), "15.*1200"),
    "too short, compressed": (runs(compressed(np.ones((10, 10)))), "100.*1200"),
    "too long, compressed": (runs(compressed(np.ones((HEIGHT, WIDTH + 1)))), "1230.*1200"),
    "nothing, compressed": (runs(""), "0.*1200"),
    "cut off, compressed": (runs(TEXT[:-1]), "cut off|1200"),
    "ends in the middle of a run": (runs("0`"), "cut off"),
    "foreign characters": (runs("{}"), "malformed"),
    "characters beyond ASCII": (runs("é"), "malformed"),
    "a run without an end": (runs("o" * 1000), "malformed"),
    "negative runs": (runs([-5, HEIGHT * WIDTH + 5]), "numbers of pixels"),
    "negative runs, compressed": (runs("N2"), "numbers of pixels"),
    "runs of text": (runs(["5"]), "numbers of pixels"),
    "counts of none": (runs(None), "NoneType"),
    "two points": ([[1, 2, 3, 4]], r"\[1, 2, 3, 4\]"),
    "no part": ([], r"\[\]"),
    "an odd number of coordinates": ([TRIANGLE, [1, 2, 3, 4, 5, 6, 7]], r"\[1, 2, 3, 4, 5, 6, 7\]"),
    "numbers as text": ([["1", "2", "3", "4", "5", "6"]], "'1'"),
    "not nested": (TRIANGLE, "5.0"),
    "not a number": ([[1, 2, 3, 4, 5, float("nan")]], "finite"),
    "far away": ([[1, 2, 3, 4, 5, 10**400]], "far"),
    "text": ("polygon", "str"),
    "nothing": (None, "NoneType"),
}


@pytest.mark.parametrize(("value", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(value: Any, message: str) -> None:
    for function in (check, decode):
        with pytest.raises(ValueError, match=message):
            function(value, **SIDES)


@pytest.mark.parametrize("counts", [[HEIGHT * WIDTH], compressed(np.zeros((HEIGHT, WIDTH)))])
def test_runs_without_a_pixel(counts: Any) -> None:
    assert not decode(runs(counts), **SIDES).any()
    with pytest.raises(ValueError, match="pixel"):
        check(runs(counts), **SIDES)
