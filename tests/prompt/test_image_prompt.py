"""Where images and words are in a prompt."""

import pytest
import torch
from torch import nn

from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.prompt.assembling import assemble
from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePrompt
from lens_multimodal.prompt.virtual_tokens import VirtualTokens

CPU = torch.device("cpu")


@pytest.fixture
def image():
    bank = VirtualTokens(nn.Embedding(5, 3), d_vocab=5, d_model=3)

    def of_grid(grid_h: int, grid_w: int) -> EmbeddedImage:
        soft_prompt = bank.store(torch.zeros(grid_h * grid_w, 3))
        return EmbeddedImage(soft_prompt=soft_prompt, placing=ImageLayout.one_grid(grid_h, grid_w))

    return of_grid


def test_rows_are_padded_on_the_left(image):
    one, two = image(2, 2), image(1, 3)
    prompt = assemble([[[1], one, [2, 3]], [two, [4]], [[1, 2]]], pad_id=0, device=CPU)
    first, second = one.soft_prompt.ids.tolist(), two.soft_prompt.ids.tolist()
    assert prompt.tokens.tolist() == [[1, *first, 2, 3], [0, 0, 0, *second, 4], [0, 0, 0, 0, 0, 1, 2]]
    assert prompt.attention_mask.tolist() == [[1] * 7, [0] * 3 + [1] * 4, [0] * 5 + [1] * 2]
    assert [[(s.start, s.stop) for s in spans] for spans in prompt.spans] == [[(1, 5)], [(3, 6)], []]
    of_images: list[set[int]] = [{1, 2, 3, 4}, {3, 4, 5}, set()]
    assert prompt.image_mask.tolist() == [[p in row for p in range(7)] for row in of_images]
    assert [positions.tolist() for positions in prompt.text_pos] == [[0, 5, 6], [6], [5, 6]]
    assert (len(prompt), prompt.last_pos) == (3, 6)


def test_every_position_is_padding_image_or_text(image):
    prompt = assemble([[image(2, 2), [1], image(1, 1)], [[2]]], pad_id=0, device=CPU)
    kinds = [prompt.image_mask, prompt.text_mask, prompt.attention_mask == 0]
    assert (sum(kind.int() for kind in kinds) == 1).all()


def test_rows_alone(image):
    prompt = assemble([[[1], image(2, 2), [2]], [image(1, 2), [3]]], pad_id=0, device=CPU)
    for index in (0, 1, -1, -2):
        row = prompt.row(index)
        assert isinstance(row, ImagePrompt)
        assert (row.attention_mask == 1).all()
        assert row.tokens[0].tolist() == prompt.tokens[index][prompt.attention_mask[index].bool()].tolist()
        (span,) = row.spans[0]
        assert row.tokens[0, span.start : span.stop].tolist() == span.image.soft_prompt.ids.tolist()
        assert torch.equal(row.row(0).tokens, row.tokens)
    for index in (2, -3):
        with pytest.raises(ValueError, match=rf"row {index}\b.*\b2 rows"):
            prompt.row(index)


def test_image_positions_of_equal_and_unequal_rows(image):
    one = image(1, 2)
    even = assemble([[one, [1], one], [[1, 2, 3], image(2, 2)]], pad_id=0, device=CPU)
    assert even.image_pos.tolist() == [[2, 3, 5, 6], [3, 4, 5, 6]]
    uneven = assemble([[one], [image(2, 2)]], pad_id=0, device=CPU)
    with pytest.raises(ValueError, match=r"\[2, 4\].*prompt\.spans"):
        _ = uneven.image_pos
    text = assemble([[[1]], [[2]]], pad_id=0, device=CPU)
    assert text.image_pos.shape == (2, 0)


def test_one_grid_or_an_error(image):
    assert assemble([[image(2, 3), image(2, 3)]], pad_id=0, device=CPU).grid == (2, 3)
    with pytest.raises(ValueError, match=r"grid.*\[\(1, 2\), \(2, 1\)\]"):
        _ = assemble([[image(1, 2)], [image(2, 1)]], pad_id=0, device=CPU).grid
    with pytest.raises(ValueError, match=r"grid.* no image"):
        _ = assemble([[[1]]], pad_id=0, device=CPU).grid


def test_cells_row_by_row(image):
    found = image(2, 3)
    assert [found.cell(i) for i in range(len(found))] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_nothing_to_assemble():
    with pytest.raises(ValueError, match=r"row$"):
        assemble([], pad_id=0, device=CPU)
    with pytest.raises(ValueError, match="row 1 "):
        assemble([[[1]], [[]]], pad_id=0, device=CPU)
