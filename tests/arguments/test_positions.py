from dataclasses import replace

import numpy as np
import pytest
import torch

from lens_multimodal.arguments.boundary import ArgumentError
from lens_multimodal.arguments.positions import positions_in, read_positions
from lens_multimodal.hooks.editing import Place, edit_at
from lens_multimodal.transformer import Passes


def chosen(positions, n_pos=6):
    return read_positions(positions).mask(n_pos).tolist()


def at(positions, **units):
    return Place(name="", positions=read_positions(positions), **units)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (None, [1, 1, 1, 1, 1, 1]),
        (2, [0, 0, 1, 0, 0, 0]),
        ([4, 0], [1, 0, 0, 0, 1, 0]),
        (range(1, 3), [0, 1, 1, 0, 0, 0]),
        (slice(2, None), [0, 0, 1, 1, 1, 1]),
        (slice(None, 4, 2), [1, 0, 1, 0, 0, 0]),
        (torch.tensor([5, 3]), [0, 0, 0, 1, 0, 1]),
        (np.array([5, 3]), [0, 0, 0, 1, 0, 1]),
        (np.int64(2), [0, 0, 1, 0, 0, 0]),
        (torch.tensor(2), [0, 0, 1, 0, 0, 0]),
        (-1, [0, 0, 0, 0, 0, 1]),
        ([-2, 0], [1, 0, 0, 0, 1, 0]),
        (slice(-2, None), [0, 0, 0, 0, 1, 1]),
        (slice(-3, -1), [0, 0, 0, 1, 1, 0]),
        (slice(1, -3), [0, 1, 1, 0, 0, 0]),
        (slice(-5, 3), [0, 1, 1, 0, 0, 0]),
        (slice(-1, 1, -2), [0, 0, 0, 1, 0, 1]),
        (np.array([False, True]), [0, 1, 0, 0, 0, 0]),
        (torch.tensor([True, False, True]), [1, 0, 1, 0, 0, 0]),
    ],
)
def test_every_spelling(positions, expected):
    assert chosen(positions) == [[bool(x) for x in expected]]
    assert sorted(positions_in(positions, 6).tolist()) == [i for i, x in enumerate(expected) if x]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (range(1, 3), [1, 2]),
        ([-1, 0], [3, 0]),
        ([3, -4, 2], [3, 0, 2]),
        (torch.tensor([2, 1]), [2, 1]),
        (3, [3]),
    ],
)
def test_positions_keep_their_order(positions, expected):
    assert positions_in(positions, 4).tolist() == expected


def standing(start: int, n_prompt: int) -> Passes:
    """A pass of a model after `start` positions."""
    passes = Passes()
    passes.begin(0, n_prompt)
    passes.begin(start, 1)
    return passes


def test_a_generated_token_is_edited_when_its_time_comes():
    """After a prompt of 6 positions, each generated token alone, as with a cache."""
    for positions, edited in [
        (None, {6, 7, 8, 9}),
        (slice(4, None), {6, 7, 8, 9}),
        (slice(8, None), {8, 9}),
        (slice(7, 9), {7, 8}),
        (slice(0, 8, 3), {6}),
        (slice(-2, None), {6, 7, 8, 9}),
        (0, set()),
        (range(6), set()),
        (slice(0, 4), set()),
        (-1, set()),
        ([-1, -2], set()),
        (slice(-3, -1), set()),
        (slice(1, -1), set()),
        (torch.tensor([True]), set()),
    ]:
        place = at(positions)
        found = {
            start
            for start in range(6, 10)
            if not edit_at(
                torch.ones(2, 1, 3), place=replace(place, passes=standing(start, 6)), change=torch.zeros_like
            ).any()
        }
        assert found == edited, positions


def test_a_prompt_of_one_position_is_no_generated_token():
    for positions in (None, 0, [0], slice(0, 1), -1, torch.tensor([True])):
        assert (edit_at(torch.ones(2, 1, 3), place=at(positions), change=torch.zeros_like) == 0).all()
    assert (edit_at(torch.ones(2, 1, 3), place=at(slice(4, None)), change=torch.zeros_like) == 1).all()


def test_a_slice_reaches_beyond_the_row_and_a_list_does_not():
    result = edit_at(torch.ones(1, 6, 1), place=at(slice(4, 99)), change=torch.zeros_like)
    assert result[0, :, 0].tolist() == [1, 1, 1, 1, 0, 0]
    with pytest.raises(ValueError, match=r"99.*6 positions"):
        edit_at(torch.ones(1, 6, 1), place=at([4, 99]), change=torch.zeros_like)


def test_positions_from_the_end_of_a_prompt_that_nobody_saw():
    passes = Passes()
    passes.begin(6, 1)
    with pytest.raises(ValueError, match="row of 6 positions"):
        edit_at(torch.ones(2, 1, 3), place=replace(at([-1]), passes=passes), change=torch.zeros_like)


def test_mask_by_row_reaches_each_row_and_not_the_generated_tokens():
    rows = torch.tensor([[True, False, False], [False, True, True]])
    result = edit_at(torch.ones(2, 5, 1), place=at(rows), change=torch.zeros_like)
    assert result[..., 0].tolist() == [[0, 1, 1, 1, 1], [1, 0, 0, 1, 1]]
    with pytest.raises(ValueError, match=r"2 rows.* batch of 3"):
        edit_at(torch.ones(3, 5, 1), place=at(rows), change=torch.zeros_like)
    with pytest.raises(ValueError, match=r"3 positions.* 2 positions"):
        edit_at(torch.ones(2, 2, 1), place=at(rows), change=torch.zeros_like)


def test_units_and_positions_together_leave_the_rest_and_the_given_tensor_alone():
    given = torch.randn(2, 4, 3, 5)
    before = given.clone()
    result = edit_at(given, place=at([1, 3], units=torch.tensor([2, 0]), axis=-2), change=lambda part: part + 10)
    expected = before.clone()
    expected[:, [1, 3], 0] += 10
    expected[:, [1, 3], 2] += 10
    assert torch.equal(result, expected)
    assert torch.equal(given, before)


@pytest.mark.parametrize(
    ("positions", "error", "values"),
    [
        ([], ValueError, "None"),
        (slice(0, None, 2), ValueError, "step"),
        (slice(4, 2), ValueError, ""),
        (slice(0, 4, 0), ValueError, "slice"),
        ([1, 2, 1], ValueError, r"\[1\]"),
        (torch.zeros(4, dtype=torch.bool), ValueError, r"\[4\]"),
        (np.zeros(4, dtype=bool), ValueError, r"\[4\]"),
        (torch.ones(1, 2, 2, dtype=torch.bool), ValueError, r"\[1, 2, 2\]"),
        ([1.5], TypeError, "1.5"),
        (1.5, TypeError, "1.5"),
        ("12", ValueError, "'12'"),
        ("image", ValueError, "'image'"),
        ([True], TypeError, "True"),
        (True, TypeError, "True"),
        (torch.tensor([[1, 2]]), TypeError, r"\[1, 2\]"),
        (torch.tensor([1.0]), TypeError, "1.0"),
        (slice("a", None), TypeError, "'a'"),
    ],
)
def test_wrong_positions_are_named(positions, error, values):
    with pytest.raises(error, match=f"where: .*{values}") as raised:
        read_positions(positions, name="where")
    assert isinstance(raised.value, ArgumentError)
    assert raised.value.argument == "where"


@pytest.mark.parametrize(
    ("positions", "values"),
    [
        ([6], "position 6 .* 6 positions .*-6 to 5"),
        ([2, 6], "position 6 .* 6 positions .*-6 to 5"),
        (-7, "position -7 .* 6 positions .*-6 to 5"),
        (slice(-7, None), "position -7 .* 6 positions"),
        (slice(2, -4), "prompt of 6"),
        ([5, -1], r"\[5\]"),
        (torch.ones(7, dtype=torch.bool), "7 positions.* 6 positions"),
    ],
)
def test_positions_that_a_prompt_does_not_have(positions, values):
    with pytest.raises(ValueError, match=values):
        chosen(positions)
    with pytest.raises(ArgumentError, match=f"where: .*{values}"):
        positions_in(positions, 6, name="where")


def test_rows_that_differ_have_no_common_index():
    rows = torch.tensor([[True, False, False], [False, True, True]])
    with pytest.raises(ArgumentError, match=r"where: .*\[2, 3\]"):
        positions_in(rows, 3, name="where")
    assert positions_in(rows[1:].expand(4, -1), 5).tolist() == [1, 2]
