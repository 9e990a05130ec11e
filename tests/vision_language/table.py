"""Writes the table of families in docs/how-to/vision-language.md: `python -m tests.vision_language.table`."""

import re
import tempfile
from pathlib import Path

import torch

from lens_multimodal import attach_vision, transformer
from tests.vision_language.conftest import Pair, noise, wrong_here
from tests.vision_language.models import FAMILIES, build

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "vision-language.md"
MARKS = re.compile(r"(<!-- table: families -->\n).*?(<!-- end of table -->)", re.S)
TEXT = " what is a dog"


def row(family: str, folder: Path) -> str:
    """What was found for one family, for a picture of 96 x 60 pixels."""
    plain, processor = build(family, folder)
    model, own = build(family, folder)
    lens = attach_vision(model, processor=own)
    pair = Pair(family=family, plain=plain, processor=processor, lens=lens)
    prompt = lens.prompt(noise(0), TEXT)
    largest = float((lens.logits(prompt).detach() - pair.logits(f"IMAGE{TEXT}", [noise(0)])).abs().max())
    inputs = pair.inputs(f"IMAGE{TEXT}", [noise(0)])
    expected = plain.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)[0, -8:]
    found = transformer.generate(lens.model, prompt.tokens, max_new_tokens=8, stop_ids=[])[0, -8:]
    layout = prompt.spans[0][0].image.layout
    grids = ", ".join(f"{grid.grid_h} x {grid.grid_w}" for grid in layout.grids) or "none"
    without = sum(layout.place(index) is None for index in range(layout.n_positions))
    decoder = type(lens.model.original_model).__name__
    cells = (
        type(plain).__name__, decoder, str(layout.n_positions), grids, str(without),
        "below 1e-5" if largest < 1e-5 else f"{largest:.1e}", "the same" if torch.equal(expected, found) else "differ",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Build every family, compare it, and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(family, Path(folder)) for family in FAMILIES if not wrong_here(family)]
    head = [
        "| model | decoder | positions of a 96 x 60 picture | patch grids | positions without pixels | "
        "largest difference of logits | greedy tokens |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    table = "\n".join([*head, *rows])
    PAGE.write_text(MARKS.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", PAGE.read_text()))


if __name__ == "__main__":
    main()
