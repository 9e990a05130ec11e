"""Every number that decides what the tiny trio becomes, one frozen dataclass per stage."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Cut-outs with alpha, labelled where a label exists, and split before any training."""

    size: int = 128
    """Side of the square RGBA raster of each cut-out, in pixels."""
    min_drawings: int = 10
    """A noun enters the vocabulary with at least this many permissive drawings."""
    held_out_style: str = "fxemoji"
    """A whole drawing style that no training stage uses."""
    held_out_share: float = 0.2
    """Share of each noun's remaining drawings that no training stage uses."""
    views_per_model: int = 8
    """Rendered sides of each 3-D model."""
    limit: int | None = None
    """Keep only this many pictures (toy runs)."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """The language model's corpus: real text and sentences from our own grammar."""

    generated_megabytes: float = 32.0
    held_out_share: float = 0.01
    real_limit_megabytes: float | None = None
    """Cut each real source here (toy runs)."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    vocab_size: int = 5120


@dataclass(frozen=True, kw_only=True)
class Language:
    """A GPT-J: parallel attention and MLP, rotary positions, untied head with bias."""

    n_layers: int = 8
    d_model: int = 192
    n_heads: int = 6
    rotary_dim: int = 16
    n_ctx: int = 256
    batch: int = 8
    steps: int = 48_829
    learning_rate: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Vision:
    """A timm BEiT trained on pixels alone."""

    image_size: int = 48
    patch_size: int = 8
    d_vision: int = 320
    """Width of the residual stream, which is what the projection reads."""
    d_head: int = 4096
    """Hidden width of the head of self-supervised training, which is dropped afterwards."""
    n_layers: int = 6
    n_heads: int = 5
    batch: int = 2048
    steps: int = 8655
    learning_rate: float = 1.5e-3
    warmup: int = 60
    weight_decay: float = 0.05
    muon_rate: float = 0.02
    """Learning rate of Muon, for the matrices; `learning_rate` is AdamW's, for everything else."""
    decay_share: float = 0.2
    """The learning rates decay to zero over this last share of the steps."""
    average_decay: float = 0.999
    """Of the running mean of the weights. The mean is what ships."""
    temperature: float = 0.1
    patches_per_object: int = 4
    """Covered patches of each object in the contrastive loss."""
    masked_weight: float = 0.2
    """Weight of the masked modelling loss relative to the contrastive loss."""
    masked_scenes: float = 0.25
    hidden_share: float = 0.4
    """Share of a masked scene's patches that are hidden."""
    codes: int = 512
    """Visual tokens."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """One linear map of the encoder's stream, as in LiMBeR; LiMBeR's dropout."""

    batch: int = 64
    steps: int = 3500
    learning_rate: float = 1e-3
    muon_rate: float = 0.003
    warmup: int = 20
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The sample scenes that ship, and the shape of every composed scene."""

    size: int = 128
    """Side of a shipped scene in pixels (training composes at the encoder's own size)."""
    known: int = 220
    held_out: int = 220
    singles_each: int = 120


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How many scenes each figure is measured on."""

    scenes: int = 400
    """New single-object scenes of each kind of drawing."""
    translated: int = 150
    """How many of them are analysed neuron by neuron."""
    probe_scenes: int = 8000
    control_steps: int = 125
    """Training steps of the projection for the random encoder."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    seed: int = 0
    pictures: Pictures = field(default_factory=Pictures)
    scenes: Scenes = field(default_factory=Scenes)
    text: Text = field(default_factory=Text)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    language: Language = field(default_factory=Language)
    vision: Vision = field(default_factory=Vision)
    projection: Projection = field(default_factory=Projection)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def of(self, stage: str) -> dict[str, Any]:
        """The settings of one stage as plain JSON."""
        return {"seed": self.seed, **asdict(getattr(self, stage))}


def toy() -> Settings:
    """The whole recipe in a minute or two: for the test suite, not for results."""
    full = Settings()
    return Settings(
        pictures=replace(full.pictures, size=64, min_drawings=2, views_per_model=1),
        scenes=replace(full.scenes, size=64, known=6, held_out=6, singles_each=3),
        text=replace(full.text, generated_megabytes=0.2, real_limit_megabytes=0.1),
        tokenizer=replace(full.tokenizer, vocab_size=1024),
        language=replace(full.language, n_layers=2, d_model=32, n_heads=2, rotary_dim=8, batch=4, steps=4, warmup=1),
        vision=replace(full.vision, d_vision=32, d_head=64, n_layers=2, n_heads=2, batch=8, steps=4, warmup=1),
        projection=replace(full.projection, batch=4, steps=4, warmup=1),
        evaluate=replace(full.evaluate, scenes=8, translated=4, probe_scenes=64, control_steps=2),
    )
