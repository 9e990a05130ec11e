"""Every number of an atlas against the plain model's activations, all held at once and looped over."""

import numpy as np
import pytest
import torch

from lens_multimodal.data import read_coco
from lens_multimodal.image.patch_cover import covered_share
from lens_multimodal.runs.picture_order import in_order
from lens_multimodal.tiny import scenes_folder
from tests.atlas.atlas_world import OPTIONS, atlas_of, world_scenes
from tests.lenses import hugging_face, inputs_embeds, random_lens
from tests.models import MLP_OUT, MODEL_CLASSES

LAYERS = (0, 2)


class BruteForce:
    """All activations `[picture, patch, neuron]` of a layer, and the covered shares `[picture, patch, category]`."""

    def __init__(self, lens, scenes, layer: int, plain) -> None:
        self.order = in_order(scenes, 0)
        self.categories = sorted({c for scene in scenes for c in scene.categories})
        block = plain.transformer.h[layer].get_submodule(MLP_OUT["gpt-j"])
        found = []
        hook = block.register_forward_pre_hook(lambda _, args: found.append(args[0][0]))
        with torch.no_grad():
            for scene in self.order:
                prompt = lens.prompt(scene.open())
                plain(inputs_embeds=inputs_embeds(plain, prompt))
                found[-1] = found[-1][prompt.image_pos[0]].numpy()
                lens.forget(prompt)
        hook.remove()
        self.activation = np.stack(found).astype(np.float64)
        self.share = np.zeros((*self.activation.shape[:2], len(self.categories)))
        for n, scene in enumerate(self.order):
            geometry = lens.vision.geometry(scene.width, scene.height)
            for c in scene.categories:
                share = covered_share(geometry, scene.seg_mask(c)).flatten().numpy()
                self.share[n, :, self.categories.index(c)] = np.rint(share * 64) / 64

    def threshold(self, neuron: int, quantile: float, n_calibration: int) -> float:
        values = np.sort(self.activation[:n_calibration, :, neuron].ravel())[::-1]
        n_above = int((1 - quantile) * len(values) + 1e-9)
        return values[n_above - 1 : n_above + 1].mean()

    def iou(self, neuron: int, category: int, threshold: float, *, share=None, pictures=slice(None)) -> float:
        share = self.share if share is None else share
        on = self.activation[pictures, :, neuron] > threshold
        own = share[pictures, :, category]
        inside = own[on].sum()
        return inside / (on.sum() + self.share[pictures, :, category].sum() - inside)

    def average_precision(self, neuron: int, category: int) -> float:
        """Exact: every distinct activation is a level of its own, each patch counts by its share."""
        order = np.argsort(-self.activation[:, :, neuron].ravel(), kind="stable")
        share = self.share[:, :, category].ravel()[order]
        precision = np.cumsum(share) / np.arange(1, len(share) + 1)
        return float((share * precision).sum() / share.sum())


@pytest.fixture(scope="module", params=[kind for kind in MODEL_CLASSES if kind != "compat"])
def made(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("world")
    lens = random_lens(home, kind=request.param)
    scenes = world_scenes(home / "pictures")
    atlas = atlas_of(lens, scenes, home / "out", layers=LAYERS)
    return atlas, {layer: BruteForce(lens, scenes, layer, hugging_face("gpt-j")) for layer in LAYERS}, lens, scenes


def clear_of_rounding(truth: BruteForce, neuron: int, quantile: float, n: int) -> bool:
    """No activation within rounding of the threshold."""
    gap = np.abs(truth.activation[:, :, neuron] - truth.threshold(neuron, quantile, n))
    return bool(gap.min() > 1e-5)


def test_thresholds_and_moments(made):
    atlas, truths, *_ = made
    for layer, truth in truths.items():
        own = atlas.neurons.query(f"layer == {layer}").sort_values("neuron")
        expected = [truth.threshold(n, 0.8, 6) for n in range(len(own))]
        np.testing.assert_allclose(own["threshold"], expected, rtol=1e-4, atol=1e-5)
        flat = truth.activation.reshape(-1, truth.activation.shape[-1])
        np.testing.assert_allclose(own["mean"], flat.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(own["std"], flat.std(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(own["max"], flat.max(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(own["active"], (flat > 0).mean(0), atol=2 / len(flat))
        assert set(own["n_patches"]) == {len(flat)}


def test_best_pictures(made):
    atlas, truths, *_ = made
    for layer, truth in truths.items():
        ids = np.array([scene.id for scene in truth.order])
        largest = truth.activation.max(axis=1)
        for neuron in range(largest.shape[1]):
            own = atlas.neuron(layer, neuron).patches
            best = np.sort(largest[:, neuron])[::-1][: OPTIONS["n_top"]]
            np.testing.assert_allclose(own["activation"], best, rtol=1e-4, atol=1e-5)
            place = [int(np.flatnonzero(ids == i)[0]) for i in own["image_id"]]
            there = truth.activation[place, own["patch_row"] * 3 + own["patch_col"], neuron]
            np.testing.assert_allclose(there, best, rtol=1e-4, atol=1e-5)
            assert own["file"].tolist() == [truth.order[p].path.name for p in place]


def test_overlap_by_halves_and_permuted(made):
    atlas, truths, *_ = made
    checked = 0
    for layer, truth in truths.items():
        n = len(truth.order)
        shifted = truth.share[(np.arange(n) + n // 2) % n]
        for row in atlas.neurons.query(f"layer == {layer}").itertuples():
            if not clear_of_rounding(truth, row.neuron, 0.8, 6):
                continue
            checked += 1
            threshold = truth.threshold(row.neuron, 0.8, 6)
            of_all = [truth.iou(row.neuron, c, threshold) for c in range(2)]
            assert row.iou == pytest.approx(max(of_all), abs=1e-9)
            assert row.category == truth.categories[int(np.argmax(of_all))]
            assert row.on == pytest.approx((truth.activation[:, :, row.neuron] > threshold).mean())
            permuted = [truth.iou(row.neuron, c, threshold, share=shifted) for c in range(2)]
            assert row.iou_permuted == pytest.approx(max(permuted), abs=1e-9)
        for row in atlas.concepts.query(f"layer == {layer}").itertuples():
            if not clear_of_rounding(truth, row.neuron, 0.8, 6):
                continue
            threshold = truth.threshold(row.neuron, 0.8, 6)
            c = truth.categories.index(row.category)
            assert row.iou == pytest.approx(truth.iou(row.neuron, c, threshold), abs=1e-9)
            for half, iou, recurrence in (
                (0, row.iou_even, row.recurrence_even),
                (1, row.iou_odd, row.recurrence_odd),
            ):
                pictures = slice(half, None, 2)
                assert iou == pytest.approx(truth.iou(row.neuron, c, threshold, pictures=pictures), abs=1e-9)
                mostly = truth.share[pictures, :, c] >= 0.5
                on = truth.activation[pictures, :, row.neuron] > threshold
                there = (on & mostly).any(axis=1)[mostly.any(axis=1)]
                assert recurrence == pytest.approx(there.mean(), abs=1e-9)
    assert checked > 60


def test_average_precision_is_close_to_the_exact_one(made):
    atlas, truths, *_ = made
    gaps = []
    for layer, truth in truths.items():
        for row in atlas.neurons.query(f"layer == {layer}").itertuples():
            exact = truth.average_precision(row.neuron, truth.categories.index(row.category))
            gaps.append(abs(row.average_precision - exact))
    assert np.mean(gaps) < 0.03
    assert max(gaps) < 0.1


def test_p_values_and_categories(made):
    atlas, truths, *_ = made
    neurons = atlas.neurons
    expected = [(1 + (neurons["iou_permuted"] >= iou).sum()) / (1 + len(neurons)) for iou in neurons["iou"]]
    assert neurons["p"].tolist() == pytest.approx(expected)
    truth = truths[0]
    known = atlas.categories.set_index("category")
    for c, name in enumerate(truth.categories):
        assert known.loc[name, "area"] == pytest.approx(truth.share[:, :, c].sum())
        assert known.loc[name, "pictures"] == (truth.share[:, :, c] >= 0.5).any(axis=1).sum()
    for concept in truth.categories:
        listed = atlas.concept(concept)["iou"]
        assert listed.is_monotonic_decreasing


def test_recurrence_over_the_other_half(made):
    atlas, truths, *_ = made
    for row in atlas.recurrence.itertuples():
        values, ious = [], []
        for truth in truths.values():
            c = truth.categories.index(row.category)
            mostly = truth.share[1::2, :, c] >= 0.5
            for neuron in range(truth.activation.shape[-1]):
                threshold = truth.threshold(neuron, 0.8, 6)
                on = truth.activation[1::2, :, neuron] > threshold
                values.append((on & mostly).any(axis=1)[mostly.any(axis=1)].mean())
                ious.append(truth.iou(neuron, c, threshold, pictures=slice(0, None, 2)))
        best = np.argsort(-np.array(ious), kind="stable")[: row.n_neurons]
        assert row.recurrence == pytest.approx(np.mean(np.array(values)[best]), abs=0.05)
        assert row.random == pytest.approx(np.mean(values), abs=0.1)
        assert row.pictures == mostly.any(axis=1).sum()


def test_words_are_those_of_the_weights(made):
    atlas, _, lens, _ = made
    model = hugging_face("gpt-j")
    entry = atlas.neuron(2, 5)
    written = model.transformer.h[2].mlp.fc_out.weight[:, 5] @ model.lm_head.weight.T
    assert entry.facts["words"][0] == lens.text.token(int(written.argmax()))
    assert len(entry.facts["driven_by"]) == 10


@pytest.mark.slow
def test_on_the_trio(tmp_path):
    """All quantiles from all pictures: Network Dissection's own rule."""
    from lens_multimodal import attach_vision

    with attach_vision() as lens:
        scenes = list(read_coco(scenes_folder()))[::9]
        options = {"quantile": 0.98, "n_calibration": 1000, "batch_size": 16, "pictures_per_chunk": 32}
        atlas = atlas_of(lens, scenes, tmp_path / "out", layers=[3], **options)
        truth = BruteForce(lens, scenes, 3, lens.model.original_model)
        rng = np.random.default_rng(0)
        checked = 0
        for neuron in rng.choice(lens.shape.d_mlp, 50, replace=False):
            if not clear_of_rounding(truth, neuron, 0.98, 1000):
                continue
            checked += 1
            threshold = truth.threshold(neuron, 0.98, 1000)
            row = atlas.neuron(3, int(neuron)).facts
            of_all = [truth.iou(neuron, c, threshold) for c in range(len(truth.categories))]
            assert row["iou"] == pytest.approx(max(of_all), abs=1e-9)
            largest = truth.activation[:, :, neuron].max()
            assert row["max"] == pytest.approx(largest, rel=1e-4, abs=1e-4)
        assert checked > 20
