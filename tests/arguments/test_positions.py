import pytest
import torch

from lens_multimodal.arguments.positions import as_positions, edit_at


def chosen(positions, n_pos=6):
    return as_positions(positions).mask(n_pos, device=torch.device("cpu")).tolist()


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
        (torch.tensor([True, False, True]), [1, 0, 1, 0, 0, 0]),
    ],
)
def test_every_spelling(positions, expected):
    assert chosen(positions) == [[bool(x) for x in expected]]


def test_a_single_generated_token_is_edited_only_by_open_positions():
    token = torch.ones(2, 1, 3)
    for positions, edited in [
        (None, True),
        (slice(4, None), True),
        (0, False),
        (range(9), False),
        (slice(0, 4), False),
    ]:
        result = edit_at(token, positions=as_positions(positions), change=torch.zeros_like)
        assert bool((result == 0).all()) is edited, positions


def test_mask_by_row_reaches_each_row_and_not_the_generated_tokens():
    rows = torch.tensor([[True, False, False], [False, True, True]])
    result = edit_at(torch.ones(2, 5, 1), positions=as_positions(rows), change=torch.zeros_like)
    assert result[..., 0].tolist() == [[0, 1, 1, 1, 1], [1, 0, 0, 1, 1]]
    with pytest.raises(ValueError, match="mask of positions has 2 rows, this pass has a batch of 3"):
        edit_at(torch.ones(3, 5, 1), positions=as_positions(rows), change=torch.zeros_like)
    with pytest.raises(ValueError, match="mask of positions is 3 long, this pass has only 2"):
        edit_at(torch.ones(2, 2, 1), positions=as_positions(rows), change=torch.zeros_like)


def test_units_and_positions_together_leave_the_rest_and_the_given_tensor_alone():
    given = torch.randn(2, 4, 3, 5)
    before = given.clone()
    result = edit_at(
        given, positions=as_positions([1, 3]), change=lambda part: part + 10, units=torch.tensor([2, 0]), axis=-2
    )
    expected = before.clone()
    expected[:, [1, 3], 0] += 10
    expected[:, [1, 3], 2] += 10
    assert torch.equal(result, expected)
    assert torch.equal(given, before)


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        ([], ValueError, "no positions given; use None"),
        (-1, ValueError, "position -1 is negative: count from 0"),
        (slice(-3, None), ValueError, "position -3 is negative"),
        (slice(0, None, 2), ValueError, "open slice of positions cannot have a step"),
        ([1, 2, 1], ValueError, "more than once: 1"),
        (torch.zeros(4, dtype=torch.bool), ValueError, "chooses none"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), ValueError, r"none|\[batch, pos\]"),
        ([1.5], TypeError, "expected integer positions, got 1.5"),
        ("12", TypeError, "expected positions as"),
        ([True], TypeError, "expected integer positions, got True"),
    ],
)
def test_wrong_positions_are_named(positions, error, message):
    with pytest.raises(error, match=message):
        as_positions(positions)


def test_a_position_outside_the_pass():
    with pytest.raises(ValueError, match=r"position 6 is outside this pass over 6 positions \(0 to 5\)"):
        chosen([2, 6])
