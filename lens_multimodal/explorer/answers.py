"""Answers of the workbench, as plain values for the page."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token and its text, the leading space kept."""

    token_id: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Word(Token):
    """One token of a caption, and the probability that the model gives it there."""

    probability: float


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A generated caption."""

    text: str
    words: list[Word]


@dataclass(frozen=True, kw_only=True)
class PatchGrid:
    """Image patches in rows and columns, as in `ImageLayout`."""

    grid_h: int
    grid_w: int
    indices: list[int]
    """Row by row from the top left: the image position that shows this patch."""


@dataclass(frozen=True, kw_only=True)
class ImagePositions:
    """What the positions of an image show; they are numbered from 0 within the image."""

    grids: list[PatchGrid]
    names: list[str]
    """What each shows, in words."""
    boxes: list[tuple[float, float, float, float] | None]
    """Where: left, top, width, height as shares of the picture's width and height. None for a position that shows no
    pixels or only padding."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A picture's caption, and what its positions show."""

    caption: Caption
    positions: ImagePositions
    unfamiliar: bool
    """Whether the picture is unlike the scenes that the tiny trio knows; false for every other lens."""


@dataclass(frozen=True, kw_only=True)
class InAtlas:
    """What an atlas says about a neuron."""

    category: str | None
    """The one it overlaps most; None for a data set without objects."""
    iou: float | None
    p: float | None
    page: str | None
    """The address of its page, if it has one."""
    pictures: list[str]
    """The addresses of pictures that drive it, best first."""


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """One row of the table of neurons."""

    layer: int
    neuron: int
    attribution: float
    """Logits."""
    index: int | None
    """The image position with the largest attribution; None at a word."""
    tokens: list[str]
    """The tokens it writes, strongest first."""
    interpretable: bool
    activations: list[float]
    """At each image position, wherever it is ranked."""
    field: str
    """Its activation over the picture, as a data URI."""
    atlas: InAtlas | None
    """None without an atlas, and for layers that the atlas does not cover."""


@dataclass(frozen=True, kw_only=True)
class Why:
    """The neurons behind one word."""

    word: Word
    neurons: list[Neuron]
    likeliest: list[Word]
    """The tokens most probable at the word's place."""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A word and the caption before and after neurons were changed."""

    before: Word
    after: Word
    random: Word | None
    """As many random neurons of the same layers changed the same way; None where a layer has too few others."""
    caption: Caption
    likeliest: list[Word]
    """The tokens most probable at the word's place, after the change."""


@dataclass(frozen=True, kw_only=True)
class InRuns(Token):
    """One token's probability in the clean, the corrupted and the patched run, at the word's place."""

    clean: float
    corrupted: float
    patched: float


@dataclass(frozen=True, kw_only=True)
class Patched:
    """The corrupted picture after activation patching.

    `word` is the one chosen in the clean picture's caption, `other` the most likely token of the corrupted run there.
    """

    caption: Caption
    word: InRuns
    other: InRuns


@dataclass(frozen=True, kw_only=True)
class SweptLayer:
    """Change of the target when each image position alone is patched into one layer.

    `clean` and `corrupted` are the target in the two unpatched runs; `label` says what it is.
    """

    layer: int
    label: str
    effect: list[float]
    clean: float
    corrupted: float
