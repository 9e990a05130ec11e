"""Pictures are the unit: checked against plain numpy and cases with a known answer."""

import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest

from lens_multimodal.experiments.shared.picture_statistics import (
    holm,
    in_words,
    interval_table,
    is_above,
    needed,
    paired_table,
    sign_flip_p,
    table_against,
    too_few,
)
from lens_multimodal.seeds import generator_for, seed_for


def rows(seed: int = 0, pictures: int = 12) -> pd.DataFrame:
    """Pictures with very different numbers of rows, so that counting rows instead of pictures shows."""
    rng = np.random.default_rng(seed)
    made = []
    for picture in range(pictures):
        for neurons, shift in (("top", 1.0), ("random", 0.0)):
            for _ in range(1 + 20 * (picture % 3 == 0)):
                made.append((picture, neurons, picture % 2, picture + shift + rng.normal()))
    return pd.DataFrame(made, columns=["image_id", "neurons", "half", "value"])


def test_a_mean_counts_each_picture_once() -> None:
    table = rows()
    found = interval_table(table, "value", by=["neurons"])
    assert list(found["neurons"]) == ["top", "random"]
    assert list(found["n"]) == [12, 12]
    for neurons, mean in zip(found["neurons"], found["mean"], strict=True):
        own = table[table["neurons"] == neurons]
        per_picture = [own["value"][own["image_id"] == i].mean() for i in range(12)]
        assert mean == pytest.approx(np.mean(per_picture))
        assert mean != pytest.approx(own["value"].mean()), "the mean over rows would pass as well"
    assert ((found["low"] < found["mean"]) & (found["mean"] < found["high"])).all()


def test_intervals_cover_the_true_mean_at_about_their_level() -> None:
    held = 0
    for trial in range(80):
        sample = np.random.default_rng(trial).normal(3.0, 1.0, size=40)
        frame = pd.DataFrame({"image_id": range(40), "value": sample})
        low, high = interval_table(frame, "value", seed=trial)[["low", "high"]].iloc[0]
        held += low <= 3.0 <= high
    assert 0.88 <= held / 80 <= 1.0


def test_the_same_seed_gives_the_same_interval_and_row_order_does_not_matter() -> None:
    table = rows()
    shuffled = table.sample(frac=1, random_state=1)
    first = interval_table(table, "value", by=["half"], seed=3).sort_values("half", ignore_index=True)
    second = interval_table(shuffled, "value", by=["half"], seed=3).sort_values("half", ignore_index=True)
    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(interval_table(table, "value", by=["half"], seed=4).sort_values("half", ignore_index=True))


def test_differences_are_taken_within_pictures() -> None:
    table = rows()
    found = paired_table(table, "value", pair="neurons", first="top", second="random")
    means = table.groupby(["image_id", "neurons"])["value"].mean().unstack()
    assert found["mean"].iloc[0] == pytest.approx((means["top"] - means["random"]).mean())
    assert found["n"].iloc[0] == 12
    between = interval_table(table, "value", by=["neurons"])
    assert found["high"].iloc[0] - found["low"].iloc[0] < (between["high"] - between["low"]).min() / 2
    lonely = table[~((table["image_id"] == 3) & (table["neurons"] == "random"))]
    assert paired_table(lonely, "value", pair="neurons", first="top", second="random")["n"].iloc[0] == 11


def test_sign_flips_equal_the_list_of_all_of_them() -> None:
    differences = np.array([0.5, -0.1, 0.7, 0.9, 0.2, -0.3])
    every = [abs(np.dot(signs, differences)) for signs in itertools.product([1, -1], repeat=6)]
    share = np.mean([one >= abs(differences.sum()) - 1e-9 for one in every])
    assert sign_flip_p(differences) == pytest.approx(share)
    assert sign_flip_p(np.full(4, 0.1)) == pytest.approx(2 / 16)
    assert sign_flip_p(np.zeros(5)) == 1.0


def test_sign_flips_of_many_pictures_are_sampled_and_never_zero() -> None:
    assert sign_flip_p(np.ones(60)) == pytest.approx(1 / 10_001)
    p_values = [sign_flip_p(np.random.default_rng(i).normal(size=20), n_flips=500) for i in range(200)]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.1
    with pytest.raises(ValueError, match="paired"):
        sign_flip_p(np.array([]))


def test_holm_equals_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def row(mean: float, low: float, high: float) -> pd.Series:
    return pd.Series({"mean": mean, "low": low, "high": high, "p": 0.001})


def test_words_and_verdicts() -> None:
    assert is_above(row(0.0, 0.1, 0.4)) is True
    assert is_above(row(0.0, -0.4, -0.1)) is False
    assert is_above(row(0.0, -0.1, 0.1)) is None
    assert is_above(row(0.0, float("nan"), float("nan"))) is None
    assert is_above(row(0.0, 0.6, 0.9), 0.5) is True
    assert is_above(row(0.0, 0.1, 0.4), p=0.06) is None, "the interval alone decides nothing"
    assert is_above(row(0.0, 0.1, 0.4), p=float("nan")) is None
    assert in_words(row(0.3141, 0.25, 0.375)) == "0.31 [0.25, 0.38]"
    assert in_words(row(-0.805, -0.9, -0.7), percent=True) == "-80 % [-90, -70]"
    assert in_words(row(2.16, 1.5, -0.8), percent=True, signed=True) == "+216 % [+150, -80]"
    assert in_words(row(-0.001, -0.004, 0.0)) == "0.00 [0.00, 0.00]", "there is no minus zero"
    assert in_words(row(0.5, float("nan"), float("nan"))) == "0.50 [?, ?]"


def test_a_verdict_takes_as_many_pictures_as_a_significant_test() -> None:
    for tests in (1, 3, 5, 9):
        n = needed(tests)
        best, short = ([sign_flip_p(np.ones(pictures)), *[1.0] * (tests - 1)] for pictures in (n, n - 1))
        assert holm(best)[0] < 0.05 <= holm(short)[0], "fewer pictures could never reach the threshold"
    assert (needed(), needed(9)) == (6, 9)
    assert too_few(2).startswith("No verdict: 2 ")
    assert " 6 " in too_few(2)
    assert " 9 " in too_few(6, tests=9)
    assert too_few(0) == ""


def test_a_table_against_a_threshold_tests_the_distance_from_it() -> None:
    table = rows()
    found = table_against(table, "value", threshold=4.0, by=["neurons"], seed=1)
    means = interval_table(table, "value", by=["neurons"], seed=1)
    pd.testing.assert_frame_equal(found.drop(columns="p"), means)
    for neurons, p in zip(found["neurons"], found["p"], strict=True):
        own = table[table["neurons"] == neurons].groupby("image_id")["value"].mean()
        assert p == sign_flip_p(own.to_numpy() - 4.0)


def test_missing_values_and_columns() -> None:
    frame = pd.DataFrame({"image_id": [1, 1, 2], "value": [1.0, None, None]})
    found = interval_table(frame, "value")
    assert found["n"].tolist() == [1]
    assert np.isnan(found["low"].iloc[0])
    assert not len(interval_table(frame.assign(value=None), "value"))
    assert list(interval_table(pd.DataFrame({"image_id": []}), "value", by=["kind"]).columns) == [
        "kind", "mean", "low", "high", "n",
    ]  # fmt: skip
    with pytest.raises(KeyError, match=r"\['wrong'\].*\['image_id', 'value'\]"):
        interval_table(frame, "wrong")


def test_generators_depend_on_every_name_and_on_nothing_else() -> None:
    seeds = {seed_for(0, "causal", 1), seed_for(0, "causal", 2), seed_for(1, "causal", 1), seed_for(0, "depth", 1)}
    assert len(seeds) == 4
    digest = hashlib.sha256(b"0/causal/1").digest()
    assert seed_for(0, "causal", 1) == int.from_bytes(digest[:8], "big") // 2
    assert generator_for(0, "a").initial_seed() == seed_for(0, "a") < 2**63
