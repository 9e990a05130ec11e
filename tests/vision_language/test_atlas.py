"""Every number of an atlas of models whose pictures have unequal numbers of positions, from the model's own pixels.

Activations come from the untouched model, what a position shows from its box, and what of it an object covers from the
corners of the objects, which are rectangles.
"""

import math
import re
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest

from lens_multimodal import attach_vision
from lens_multimodal.atlas import AtlasSettings, build_atlas, estimate_atlas
from lens_multimodal.atlas.atlas_settings import LEVELS
from lens_multimodal.runs.picture_order import in_order
from lens_multimodal.views.atlas import write_site
from tests.vision_language.conftest import Pair
from tests.vision_language.models import build
from tests.vision_language.pictures import scenes_of_several_sizes
from tests.vision_language.test_data_sets import LAYER, TEXT, neurons_on_pixels

pytestmark = pytest.mark.newest

QUANTILE, N_CALIBRATION, N_TOP, N_SCENES = 0.8, 7, 3, 13
SETTINGS = AtlasSettings(
    layers=[LAYER], text=TEXT, batch_size=5, pictures_per_chunk=4, quantile=QUANTILE, n_calibration=N_CALIBRATION,
    n_top=N_TOP,
)  # fmt: skip
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class BruteForce:
    """Of each picture in the order of the run: `[patch, neuron]` and the covered shares `[patch, category]`."""

    categories = ("cat", "dog")

    def __init__(self, pair, scenes) -> None:
        self.order = in_order(scenes, 0)
        self.image_pos, self.activation, self.share, self.shifted, self.layouts = [], [], [], [], []
        for place, scene in enumerate(self.order):
            (span,) = pair.lens.prompt(scene.path, TEXT).spans[0]
            layout = span.image.layout
            shown = [index for index in range(layout.n_positions) if layout.box(index) is not None]
            other = self.order[(place + len(scenes) // 2) % len(scenes)]
            on_pixels = neurons_on_pixels(pair, scene, TEXT)[list(span.positions)].double().numpy()
            self.image_pos.append(np.array(shown))
            self.activation.append(on_pixels[shown])
            self.share.append(self._shares(layout, shown, scene, scene))
            self.shifted.append(self._shares(layout, shown, scene, other))
            self.layouts.append(layout)
        self.flat = np.concatenate(self.activation)
        self.levels = sorted({*LEVELS, QUANTILE})
        calibration = np.concatenate(self.activation[:N_CALIBRATION])
        ordered = np.sort(calibration, axis=0)[::-1]
        n_above = {q: int((1 - q) * len(ordered) + 1e-9) for q in self.levels}
        above_all = ordered[0] + (ordered[0] - ordered[1]) / 2
        self.thresholds = {q: ordered[n - 1 : n + 1].mean(axis=0) if n else above_all for q, n in n_above.items()}

    def _shares(self, layout, shown, scene, of) -> np.ndarray:
        """What `of`'s rectangles, stretched to `scene`, cover of each patch, in parts of 64."""
        table = np.zeros((len(shown), len(self.categories)))
        for row, index in enumerate(shown):
            box = layout.box(index)
            for column, category in enumerate(self.categories):
                if category not in of.categories:
                    continue
                x, y = scene.width / of.width, scene.height / of.height
                left, top, right, bottom = {
                    "dog": (0, 0, of.width // 2 * x, scene.height),
                    "cat": (0, of.height // 2 * y, scene.width, scene.height),
                }[category]
                across = min(box.right, right) - max(box.left, left)
                down = min(box.bottom, bottom) - max(box.top, top)
                table[row, column] = np.rint(64 * max(0, across) * max(0, down) / box.area) / 64
        return table

    def iou(self, neuron, category, *, shares=None, pictures=slice(None)) -> float:
        shares = self.share if shares is None else shares
        on = np.concatenate([own[:, neuron] > self.thresholds[QUANTILE][neuron] for own in self.activation[pictures]])
        inside = np.concatenate(shares[pictures])[on, category].sum()
        return inside / (on.sum() + np.concatenate(self.share[pictures])[:, category].sum() - inside)

    def average_precision(self, neuron, category) -> float:
        """By levels, from the highest down, the patches below the lowest level last."""
        share = np.concatenate(self.share)[:, category]
        on = [self.flat[:, neuron] > self.thresholds[q][neuron] for q in reversed(self.levels)]
        total, before = 0.0, 0.0
        for chosen in [*on, np.ones(len(share), dtype=bool)]:
            recall = share[chosen].sum() / share.sum()
            total += (recall - before) * share[chosen].sum() / max(1, chosen.sum())
            before = recall
        return total

    def recurrence(self, neuron, category, half) -> float:
        found = []
        for activation, share in zip(self.activation[half::2], self.share[half::2], strict=True):
            mostly = share[:, category] >= 0.5
            if mostly.any():
                found.append((activation[mostly, neuron] > self.thresholds[QUANTILE][neuron]).any())
        return float(np.mean(found))

    def clear(self, neuron) -> bool:
        """Whether no activation lies within rounding of any threshold."""
        return all(np.abs(self.flat[:, neuron] - own[neuron]).min() > 1e-5 for own in self.thresholds.values())


@pytest.fixture(
    scope="module",
    params=["llava", "gemma-3", "llava-next", "llama-4", "internvl", "smolvlm", "mistral3", "qwen2.5-vl"],
)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    plain, processor = build(request.param, folder)
    model, own = build(request.param, folder)
    pair = Pair(family=request.param, plain=plain, processor=processor, lens=attach_vision(model, processor=own))
    scenes = scenes_of_several_sizes(folder / "pictures", N_SCENES)
    return (
        build_atlas(pair.lens, scenes, folder / "out", settings=SETTINGS, progress=False),
        BruteForce(pair, scenes),
        pair,
        scenes,
    )


def test_numbers_of_patches_and_moments(made):
    atlas, truth, pair, _ = made
    counts = {len(own) for own in truth.activation}
    assert (len(counts) > 1) == (pair.family not in ("llava", "gemma-3"))
    found = atlas.neurons.sort_values("neuron")
    assert set(found["n_patches"]) == {len(truth.flat)}
    np.testing.assert_allclose(found["mean"], truth.flat.mean(axis=0), **CLOSE)
    np.testing.assert_allclose(found["std"], truth.flat.std(axis=0), **CLOSE)
    np.testing.assert_allclose(found["max"], truth.flat.max(axis=0), **CLOSE)
    np.testing.assert_allclose(found["active"], (truth.flat > 0).mean(axis=0), atol=2 / len(truth.flat))
    np.testing.assert_allclose(found["threshold"], truth.thresholds[QUANTILE], **CLOSE)


def test_the_best_pictures_and_what_their_patches_show(made):
    atlas, truth, *_ = made
    ids = [scene.id for scene in truth.order]
    largest = np.stack([own.max(axis=0) for own in truth.activation])
    for neuron in range(largest.shape[1]):
        rows = atlas.neuron(LAYER, neuron).patches
        np.testing.assert_allclose(rows["activation"], np.sort(largest[:, neuron])[::-1][:N_TOP], **CLOSE)
        for row in rows.itertuples():
            place = ids.index(row.image_id)
            at = truth.image_pos[place].tolist().index(row.image_pos)
            assert truth.activation[place][at, neuron] == pytest.approx(row.activation, rel=1e-4, abs=1e-5)
            layout = truth.layouts[place]
            assert (row.patch_row, row.patch_col) == layout.place(row.image_pos)[1:]
            box = layout.box(row.image_pos)
            assert (row.left, row.top, row.right, row.bottom) == (box.left, box.top, box.right, box.bottom)
            assert (row.width, row.height) == layout.picture_size


def test_overlaps_precision_and_recurrence(made):
    atlas, truth, *_ = made
    checked = 0
    for row in atlas.neurons.itertuples():
        if not truth.clear(row.neuron):
            continue
        checked += 1
        of_all = [truth.iou(row.neuron, c) for c in range(2)]
        assert row.iou == pytest.approx(max(of_all), abs=1e-9)
        assert row.category == truth.categories[int(np.argmax(of_all))]
        permuted = [truth.iou(row.neuron, c, shares=truth.shifted) for c in range(2)]
        assert row.iou_permuted == pytest.approx(max(permuted), abs=1e-9)
        assert row.on == pytest.approx((truth.flat[:, row.neuron] > truth.thresholds[QUANTILE][row.neuron]).mean())
        best = int(np.argmax(of_all))
        assert row.average_precision == pytest.approx(truth.average_precision(row.neuron, best), abs=1e-9)
    for row in atlas.concepts.itertuples():
        if not truth.clear(row.neuron):
            continue
        c = truth.categories.index(row.category)
        assert row.iou_even == pytest.approx(truth.iou(row.neuron, c, pictures=slice(0, None, 2)), abs=1e-9)
        assert row.iou_odd == pytest.approx(truth.iou(row.neuron, c, pictures=slice(1, None, 2)), abs=1e-9)
        assert row.recurrence_even == pytest.approx(truth.recurrence(row.neuron, c, 0))
        assert row.recurrence_odd == pytest.approx(truth.recurrence(row.neuron, c, 1))
    assert checked > 20


def test_categories(made):
    atlas, truth, *_ = made
    known = atlas.categories.set_index("category")
    for c, name in enumerate(truth.categories):
        area = sum(own[:, c].sum() for own in truth.share)
        assert known.loc[name, "area"] == pytest.approx(area)
        assert known.loc[name, "share"] == pytest.approx(area / len(truth.flat))
        assert known.loc[name, "pictures"] == sum((own[:, c] >= 0.5).any() for own in truth.share)


def test_the_estimate_counts_the_patches(made, tmp_path):
    _, _, pair, scenes = made
    found = estimate_atlas(pair.lens, scenes, settings=replace(SETTINGS, batch_size=3), n_batches=2, out=tmp_path)
    assert found.pictures == N_SCENES
    assert found.bytes > 0


def test_its_site_outlines_the_patches(made):
    """Every link leads to a file, and each outline is the box of the table in per cent of its picture."""
    atlas, _, _, scenes = made
    index = write_site(atlas, scenes, n_neurons=12, progress=False)
    for page in index.parent.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            assert (page.parent / unquote(target)).is_file(), (page, target)
    best = atlas.neurons.sort_values("iou", ascending=False).iloc[0]
    entry = atlas.neuron(LAYER, int(best["neuron"]))
    styles = re.findall(
        r'class="cell" style="[^"]*left:([\d.]+)%;top:([\d.]+)%;width:([\d.]+)%;height:([\d.]+)%',
        entry.page.read_text(),
    )
    for style, row in zip(styles, entry.patches.itertuples(), strict=True):
        left, top, across, down = map(float, style)
        assert left / 100 * row.width == pytest.approx(row.left, abs=0.1)
        assert top / 100 * row.height == pytest.approx(row.top, abs=0.1)
        assert (left + across) / 100 * row.width == pytest.approx(row.right, abs=0.1)
        assert (top + down) / 100 * row.height == pytest.approx(row.bottom, abs=0.1)


def test_a_card_shows_what_it_says(made):
    atlas, _, pair, scenes = made
    card = pair.lens.show((LAYER, 3), image=scenes[0].path, pictures=[scenes[1].path], atlas=atlas)
    assert card.atlas is not None
    for picture, row in zip(card.atlas.pictures, card.atlas.patches.itertuples(), strict=True):
        assert (picture.patch.left, picture.patch.bottom) == (row.left, row.bottom)
        assert math.isclose(picture.activation, row.activation)
    assert card._repr_html_().count('class="cell"') > len(card.atlas.pictures)


def test_a_model_whose_positions_show_no_place_is_refused(tmp_path):
    model, processor = build("blip-2", tmp_path)
    lens = attach_vision(model, processor=processor)
    scenes = scenes_of_several_sizes(tmp_path / "pictures", 3)
    with pytest.raises(ValueError, match=r"Blip2.*none"):
        build_atlas(lens, scenes, tmp_path / "out", settings=SETTINGS, progress=False)
    assert not (tmp_path / "out").exists()
