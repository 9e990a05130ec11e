"""After memory ran out, no forward pass exceeds the smaller batch, and the numbers stay the same."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from lens_multimodal.experiments import EXPERIMENTS
from lens_multimodal.experiments.score_faithfulness import FaithfulnessSettings
from tests.experiments.planted import World


@contextmanager
def rows_at_once(world: World) -> Iterator[list[int]]:
    """Rows of every pass through the first block, backward passes' forwards and generation included."""
    seen: list[int] = []

    def note(_block: object, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append(hidden.shape[0])

    handle = world.lens.model.blocks[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def tables(world: World, name: str, batch_size: int) -> tuple[dict[str, pd.DataFrame], int]:
    experiment = EXPERIMENTS[name]
    settings = (
        FaithfulnessSettings(n_neurons=10, integrate_every=1) if name == "faithfulness" else experiment.settings()
    )
    picture = world.picture(0, batch_size=batch_size)
    with rows_at_once(world) as seen:
        found = experiment.rows(world.context(picture, settings))
    return found, max(seen)


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_no_pass_takes_more_rows_than_the_batch_and_the_rows_are_the_same(world, name):
    small, most = tables(world, name, 1)
    assert most == 1
    _, most = tables(world, name, 3)
    assert most <= 3
    large, _ = tables(world, name, 64)
    assert small.keys() == large.keys()
    for table, expected in large.items():
        found = small[table]
        assert list(found.columns) == list(expected.columns)
        for column in expected.columns:
            if pd.api.types.is_float_dtype(expected[column]):
                np.testing.assert_allclose(found[column], expected[column], rtol=1e-7, atol=1e-10, err_msg=column)
            elif not isinstance(expected[column].iloc[0] if len(expected) else None, (list, np.ndarray)):
                assert found[column].astype(str).tolist() == expected[column].astype(str).tolist(), column
