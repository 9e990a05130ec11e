"""Small SVG maps and curves for the HTML of a result in a notebook."""

import math
from collections.abc import Callable, Sequence

from jaxtyping import Shaped
from markupsafe import Markup, escape
from torch import Tensor

MOST_CELLS = 4000
"""Larger maps are cut; the result itself holds everything."""


def cells_svg(
    values: Shaped[Tensor, "row column"],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    signed: bool,
    title: Callable[[int, int], str],
) -> Markup:
    """A map of cells, the first row at the bottom as depth has it; hovering shows `title(row, column)`.

    Larger values are more opaque, and none is fully transparent: orange above zero, blue below. Unsigned values are
    measured from the smallest one.
    """
    numbers = values.detach().cpu().double()
    n_rows, n_columns = numbers.shape
    finite = numbers[numbers.isfinite()]
    low = 0.0 if signed or not len(finite) else float(finite.min())
    reach = float((finite - low).abs().max()) if len(finite) else 0.0
    side = max(6, min(20, 900 // max(n_columns, 1)))
    left = 8 + 7 * max(map(len, row_names), default=0)
    below = 12 + 6 * max(map(len, column_names), default=0)
    parts = []
    for row in range(n_rows):
        y = (n_rows - 1 - row) * side
        parts.append(
            f'<text x="{left - 5}" y="{y + side * 0.72:.0f}" text-anchor="end">{escape(row_names[row])}</text>'
        )
        for column in range(n_columns):
            value = float(numbers[row, column])
            strength = abs(value - low) / reach if reach and math.isfinite(value) else 0.0
            fill = "#2f80ed" if value < low else "#e05a0c"
            parts.append(
                f'<rect x="{left + column * side}" y="{y}" width="{side - 1}" height="{side - 1}" fill="{fill}" '
                f'fill-opacity="{max(0.06, strength):.2f}"><title>{escape(title(row, column))}</title></rect>'
            )
    every = max(1, -(-14 // side))
    for column in range(0, n_columns, every):
        x, y = left + (column + 0.65) * side, n_rows * side + 8
        parts.append(
            f'<text x="{x:.0f}" y="{y}" text-anchor="end" transform="rotate(-90 {x:.0f} {y})">'
            f"{escape(column_names[column])}</text>"
        )
    width, height = left + n_columns * side, n_rows * side + below
    return _svg(parts, width, height)


def lines_svg(lines: Sequence[tuple[str, Sequence[float | int], Sequence[float | int]]], *, width: int = 320) -> Markup:
    """Lines over a common range: `(colour, x, y)` each; the ends of the y range are labelled."""
    height = 150
    xs = [x for _, x_values, _ in lines for x in x_values]
    ys = [y for _, _, y_values in lines for y in y_values]
    if not xs:
        return Markup("")
    (x_low, x_high), (y_low, y_high) = (min(xs), max(xs)), (min(ys), max(ys))

    def point(x: float | int, y: float | int) -> str:
        across = 44 + (x - x_low) / ((x_high - x_low) or 1) * (width - 52)
        down = 8 + (y_high - y) / ((y_high - y_low) or 1) * (height - 34)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<polyline fill="none" stroke="{escape(colour)}" stroke-width="2" points="'
        + " ".join(point(float(x), float(y)) for x, y in zip(x_values, y_values, strict=True))
        + '"/>'
        for colour, x_values, y_values in lines
    ]
    parts += [
        f'<text x="40" y="14" text-anchor="end">{y_high:.3g}</text>',
        f'<text x="40" y="{height - 24}" text-anchor="end">{y_low:.3g}</text>',
        f'<text x="44" y="{height - 6}">{x_low:g}</text>',
        f'<text x="{width - 8}" y="{height - 6}" text-anchor="end">{x_high:g} neurons</text>',
    ]
    return _svg(parts, width, height)


def _svg(parts: Sequence[str], width: int, height: int) -> Markup:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return Markup(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>')
