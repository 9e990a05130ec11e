"""Draw the figures of the documentation: `python docs/figures/draw.py` writes the SVG files into this folder."""

from collections.abc import Callable
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
INK, SOFT, LINE = "#1f2937", "#64748b", "#94a3b8"
PICTURE, VISION, MAP, LANGUAGE, HOT = "#bae6fd", "#a7f3d0", "#fde68a", "#ddd6fe", "#c2410c"


def figures() -> dict[str, str]:
    """All figures by file name."""
    makers: tuple[Callable[[], str], ...] = (trio, neuron, receptive_field, patching)
    return {f"{maker.__name__.replace('_', '-')}.svg": maker() for maker in makers}


def trio() -> str:
    """A picture becomes tokens of a language model."""
    cells = _grid(30, 60, 3, 3, 32, PICTURE)
    encoder = _box(160, 60, 110, 96, VISION, "encoder", "pixels only, frozen")
    projection = _box(310, 60, 110, 96, MAP, "projection", "one linear map, trained")
    tokens = "".join(
        _rect(460 + 22 * (i % 9), 50, 20, 40, PICTURE if i < 9 else "#ffffff")
        + _text(470 + 22 * (i % 9), 75, str(i + 1), size=11)
        for i in range(9)
    )
    words = "".join(
        _rect(664 + 62 * i, 50, 58, 40, "#ffffff") + _text(693 + 62 * i, 75, word, size=12)
        for i, word in enumerate(("A", "picture", "of"))
    )
    model = _rect(460, 110, 388, 66, LANGUAGE) + _text(654, 138, "language model (GPT-J)", weight="bold")
    model += _text(654, 160, "text only, frozen; TransformerLens hooks everywhere", size=12, colour=SOFT)
    caption = _arrow(654, 176, 654, 200) + _text(654, 220, "“a dog.”", size=16, weight="bold", colour=HOT)
    body = (
        _text(78, 44, "image patches", size=12, colour=SOFT)
        + cells
        + _arrow(130, 108, 156, 108)
        + encoder
        + _arrow(272, 108, 306, 108)
        + projection
        + _arrow(422, 108, 456, 80)
        + _text(558, 40, "image positions (virtual tokens)", size=12, colour=SOFT)
        + _text(756, 40, "words", size=12, colour=SOFT)
        + tokens
        + words
        + model
        + caption
    )
    return _svg(880, 240, "A picture becomes a run of tokens of a frozen language model", body)


def neuron() -> str:
    """A neuron reads the residual stream and writes its row of W_out."""
    stream = _rect(40, 40, 26, 190, LANGUAGE) + _text(53, 30, "residual stream", size=12, colour=SOFT)
    reads = _arrow(66, 90, 190, 90) + _text(128, 80, "column of W_in", size=12, colour=SOFT)
    unit = f'<circle cx="222" cy="110" r="32" fill="{MAP}" stroke="{INK}"/>' + _text(222, 116, "A", weight="bold")
    unit += _text(222, 162, "activation at", size=12, colour=SOFT) + _text(
        222, 178, "one image position", size=12, colour=SOFT
    )
    writes = _arrow(190, 134, 66, 190) + _text(150, 206, "row of W_out", size=12, colour=SOFT)
    decodes = _arrow(254, 110, 380, 110) + _text(316, 100, "row · W_U", size=12, colour=SOFT)
    words = _rect(384, 52, 150, 116, "#ffffff") + _text(459, 44, "decoded tokens", size=12, colour=SOFT)
    words += "".join(
        _text(459, 78 + 22 * i, word, size=13, colour=HOT if i == 0 else INK)
        for i, word in enumerate(("dog", "puppy", "hound", "bark"))
    )
    score = _rect(566, 52, 280, 116, "#ffffff") + _text(706, 44, "attribution to the word c", size=12, colour=SOFT)
    score += _text(706, 100, "A · ∂Y(c) / ∂A", size=22, weight="bold")
    score += _text(706, 132, "estimates what the logit Y(c) loses", size=12, colour=SOFT)
    score += _text(706, 150, "when this activation is set to zero", size=12, colour=SOFT)
    return _svg(
        880,
        250,
        "What a neuron reads, what it writes, and its attribution",
        stream + reads + unit + writes + decodes + words + score,
    )


def receptive_field() -> str:
    """From activations at image positions to a mask over the picture."""
    values = (1, 1, 2, 1, 2, 8, 6, 1, 1, 7, 9, 2, 1, 2, 2, 1)
    row = "".join(_rect(30 + 14 * i, 90, 12, 40, HOT, opacity=0.1 * v) for i, v in enumerate(values))
    grid = "".join(
        _rect(310 + 30 * (i % 4), 52 + 30 * (i // 4), 30, 30, HOT, opacity=0.1 * v) for i, v in enumerate(values)
    )
    smooth = _rect(490, 52, 120, 120, "#ffffff")
    smooth += "".join(
        f'<ellipse cx="547" cy="105" rx="{52 - 8 * i}" ry="{46 - 7 * i}" fill="{HOT}" opacity="0.2"/>' for i in range(5)
    )
    mask = _rect(670, 52, 120, 120, "#ffffff") + f'<ellipse cx="727" cy="105" rx="20" ry="17" fill="{HOT}"/>'
    ellipse = '<ellipse cx="735" cy="112" rx="42" ry="38" fill="none" '
    mask += f'{ellipse}stroke="{INK}" stroke-width="2" stroke-dasharray="5 4"/>'
    labels = (
        _text(142, 76, "activation at each image position", size=12, colour=SOFT)
        + _text(370, 40, "patch grid", size=12, colour=SOFT)
        + _text(550, 40, "upsampled to the picture", size=12, colour=SOFT)
        + _text(730, 40, "most active 5 %", size=12, colour=SOFT)
        + _text(730, 196, "dashed: the object", size=12, colour=SOFT)
    )
    arrows = _arrow(262, 110, 304, 110) + _arrow(434, 110, 484, 110) + _arrow(614, 110, 664, 110)
    return _svg(880, 215, "Receptive field of a neuron over a picture", row + grid + smooth + mask + labels + arrows)


def patching() -> str:
    """Activation patching: an activation of a clean run is copied into a corrupted run."""

    def run(y: int, name: str, colour: str, answer: str) -> str:
        cells = "".join(
            _rect(160 + 56 * layer, y + 18 * position, 50, 15, colour) for layer in range(6) for position in range(4)
        )
        return cells + _text(80, y + 40, name, weight="bold") + _text(600, y + 40, answer, size=14)

    clean = run(40, "clean run", PICTURE, "“dog”")
    corrupted = run(160, "corrupted run", LANGUAGE, "“cat” … or “dog” again?")
    taken = _rect(272, 58, 50, 15, HOT) + _rect(272, 178, 50, 15, HOT) + _arrow(297, 75, 297, 176, colour=HOT)
    labels = _text(324, 28, "layers →", size=12, colour=SOFT) + _text(130, 128, "positions ↓", size=12, colour=SOFT)
    labels += _text(374, 136, "one activation, copied", size=12, colour=HOT)
    return _svg(
        880, 260, "Activation patching from a clean run into a corrupted run", clean + corrupted + taken + labels
    )


def _svg(width: int, height: int, title: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif">\n<title>{escape(title)}</title>\n'
        f"<defs>{_head('ink', SOFT)}{_head('hot', HOT)}</defs>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="#f8fafc"/>\n{body}</svg>\n'
    )


def _head(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
    )


def _rect(x: int, y: int, width: int, height: int, fill: str, *, opacity: float = 1.0) -> str:
    shade = "" if opacity == 1.0 else f' fill-opacity="{opacity:.1f}"'
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{fill}"{shade} stroke="{LINE}"/>\n'


def _grid(x: int, y: int, rows: int, columns: int, side: int, fill: str) -> str:
    return "".join(
        _rect(x + side * column, y + side * row, side, side, fill)
        + _text(x + side * column + side // 2, y + side * row + side // 2 + 4, str(row * columns + column + 1), size=11)
        for row in range(rows)
        for column in range(columns)
    )


def _box(x: int, y: int, width: int, height: int, fill: str, name: str, note: str) -> str:
    first, _, second = note.partition(", ")
    middle = x + width // 2
    lines = _text(middle, y + 34, name, size=13, weight="bold")
    lines += _text(middle, y + 58, first, size=12, colour=SOFT) + _text(middle, y + 76, second, size=12, colour=SOFT)
    return _rect(x, y, width, height, fill) + lines


def _text(x: int, y: int, words: str, *, size: int = 14, weight: str = "normal", colour: str = INK) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="middle">{escape(words)}</text>\n'
    )


def _arrow(x1: int, y1: int, x2: int, y2: int, *, colour: str = SOFT) -> str:
    head = "hot" if colour == HOT else "ink"
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="1.6" '
        f'marker-end="url(#{head})"/>\n'
    )


if __name__ == "__main__":
    for name, drawing in figures().items():
        (FOLDER / name).write_text(drawing)
