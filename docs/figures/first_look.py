"""Draw the README's picture with the tiny trio: `python docs/figures/first_look.py` writes `first-look.png` beside it.

Run it again when the trio's weights change: everything in the picture is computed with the weights that ship.
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.demo import caption_scenes, explain, sample_scenes
from lens_multimodal.hooks import ablate, random_neurons_like
from lens_multimodal.prompt.image_prompt import PROMPT
from lens_multimodal.views.demo_page import CaptionedScene, ExplainedWord
from lens_multimodal.views.plots import heat_over_picture
from lens_multimodal.views.plots.labels import visible

FILE = Path(__file__).with_name("first-look.png")
SIDE, GAP, TOP, BELOW = 220, 24, 56, 132
SHOWN, ABLATED = 3, 200
INK, SOFT, HOT, GROUND = "#1f2937", "#64748b", "#c2410c", "#ffffff"


def choose(lens: VisionLens, scenes: list[CaptionedScene]) -> CaptionedScene:
    """The first scene whose noun is one token and stands once in its caption; a bear before all others.

    Raises: ValueError if no caption names its object.
    """
    right = [
        scene
        for scene in scenes
        if scene.names_its_object and scene.caption.count(scene.noun) == 1 and one_token(lens, scene.noun)
    ]
    if not right:
        raise ValueError(f"none of {len(scenes)} captions names its object")
    return min(right, key=lambda scene: scene.noun != "bear")


def one_token(lens: VisionLens, noun: str) -> bool:
    return len(lens.text.encode(f" {noun}")) == 1


def captions_without(lens: VisionLens, explained: ExplainedWord) -> tuple[str, str]:
    """The captions without the neurons behind the word, and without as many random ones of the same layers."""
    picture, word = explained.scene.picture, f" {explained.word}"
    prompt = lens.prompt(picture)
    top = lens.neurons(lens.prompt_before(picture, word), word, top_k=ABLATED)
    said = []
    for neurons in (top, random_neurons_like(lens.model, top, torch.Generator().manual_seed(0))):
        with lens.model.hooks(fwd_hooks=ablate(lens.model, neurons, positions=prompt.image_pos[0])):
            said.append(lens.generate(prompt)[0])
    return said[0], said[1]


def draw(lens: VisionLens, explained: ExplainedWord) -> Image.Image:
    """The picture under its patch grid, then interpretable neurons behind the word: where active, what they write."""
    width = (SHOWN + 1) * SIDE + (SHOWN + 2) * GAP
    board = Image.new("RGB", (width, TOP + SIDE + BELOW), GROUND)
    pen = ImageDraw.Draw(board)
    big, small = ImageFont.load_default(17), ImageFont.load_default(14)
    whole = width - 2 * GAP
    scene, word = explained.scene, explained.word
    board.paste(scene.picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (GAP, TOP))
    _grid(pen, lens.vision.grid_h, lens.vision.grid_w)
    said = f"“{PROMPT} {scene.caption}”"
    pen.text((GAP, 22), said, fill=INK, font=_fitting(said, SIDE))
    for index, neuron in enumerate(explained.image.neurons.head(SHOWN).itertuples()):
        left = GAP + (index + 1) * (SIDE + GAP)
        overlay = heat_over_picture(scene.picture, explained.image.fields[index].heat)
        board.paste(overlay.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, TOP))
        pen.text((left, 22), f"layer {neuron.layer}, neuron {neuron.neuron}", fill=INK, font=big)
        lines = _wrapped([visible(token).lstrip("·") for token in neuron.tokens], small)
        for row, line in enumerate(lines):
            pen.text((left, TOP + SIDE + 8 + 19 * row), line, fill=SOFT, font=small)
    about = (
        f"{lens.shape.n_neurons:,} neurons ranked by",
        f"what they add to “{word}”:",
        "where active, what they write",
    )
    for row, line in enumerate(about):
        pen.text((GAP, TOP + SIDE + 8 + 19 * row), line, fill=SOFT, font=small)
    without, control = captions_without(lens, explained)
    said = f"“{without}” without the {ABLATED} neurons behind “{word}”; “{control}” without {ABLATED} random ones"
    pen.text((GAP, TOP + SIDE + 88), said, fill=HOT, font=_fitting(said, whole))
    return board


def _grid(pen: ImageDraw.ImageDraw, grid_h: int, grid_w: int) -> None:
    for i in range(1, grid_w):
        pen.line([(GAP + SIDE * i // grid_w, TOP), (GAP + SIDE * i // grid_w, TOP + SIDE - 1)], fill=GROUND)
    for i in range(1, grid_h):
        pen.line([(GAP, TOP + SIDE * i // grid_h), (GAP + SIDE - 1, TOP + SIDE * i // grid_h)], fill=GROUND)


def _fitting(text: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    sizes = [size for size in range(17, 8, -1) if ImageFont.load_default(size).getlength(text) <= width]
    return ImageFont.load_default(max(sizes, default=9))


def _wrapped(words: list[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in words:
        longer = f"{lines[-1]}, {word}" if lines[-1] else word
        if font.getlength(longer) <= SIDE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def main() -> None:
    with attach_vision() as lens:
        scene = choose(lens, caption_scenes(lens, sample_scenes(each=60)))
        picture = draw(lens, explain(lens, scene, shown=SHOWN))
    picture.quantize(224, dither=Image.Dither.NONE).save(FILE, optimize=True)


if __name__ == "__main__":
    main()
