"""A small GPT-J with a planted circuit: one neuron writes " dog" where the picture is red.

A red patch becomes a vector along `RED`. Neuron `NEURON` of layer 0 reads it and adds `DOG` to the residual stream
there. One attention head of layer 1, which attends uniformly, carries `DOG` to every later position, and the
unembedding reads it as " dog". All other weights are small random numbers.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from lens_multimodal import Preprocessing, VisionEncoder, VisionLens, attach_vision
from lens_multimodal.data import Scene, SceneObject
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared.context import Context
from lens_multimodal.experiments.shared.nouns import noun_finder
from lens_multimodal.experiments.shared.once import Once
from lens_multimodal.experiments.shared.picture_state import PictureSettings, PictureState
from tests.experiments.reference import Plain
from tests.models import wrapped_model

DOG, RED, BLUE, NOTHING = 0, 1, 2, 3
"""Directions of the residual stream; nothing writes `NOTHING`, so DOG minus NOTHING lacks what a norm subtracts."""

LAYER, NEURON = 0, 7
D_MODEL, D_MLP, SIDE, PATCH = 32, 40, 24, 8
CELL = 16
"""Pixels of the picture under one image patch: pictures are twice the encoder's size."""

SPOKEN = ["dog", "puppy", "wolf", "fox", "cat", "hound", "pet", "tail", "paw", "bone"]
"""What the planted neuron writes, " dog" most of all."""

WORDS = [
    *SPOKEN, "picture", "of", "sun", "tree", "red", "boat", "fish", "sea", "hat", "big", "cup", "key", "oak",
    "and", "is", "door", "house", "road", "bird", "lamp", "moon", "star", "rain", "snow", "wind", "fire",
    "stone", "glass", "chair", "table", "spoon", "fork", "knife", "bread", "milk", "apple", "pear", "horse",
    "sheep", "goat", "duck", "shirt", "shoe", "coat", "ring", "book", "pen", "desk", "wall", "roof", "hill",
    "lake", "river", "field", "grass", "leaf", "root", "seed", "corn", "rice", "an", "the", "it",
]  # fmt: skip


@dataclass(frozen=True)
class World:
    """The planted trio, the same weights as a plain language model, and scenes."""

    lens: VisionLens
    plain: GPTJForCausalLM
    scenes: list[Scene]

    def picture(self, index: int = 0, *, batch_size: int = 32, **settings: object) -> PictureState:
        scene = self.scenes[index]
        chosen = PictureSettings(**{"max_new_tokens": 4, "top_k": 12, "n_ranked": 120, **settings})
        return PictureState(
            lens=self.lens,
            scene=scene,
            image=scene.open(),
            settings=chosen,
            seed=0,
            noun_finder=noun_finder(self.lens, self.scenes),
            batch_size=batch_size,
        )

    def with_token(self, token: int, piece: str, *, folder: Path) -> "World":
        """The same weights and scenes under a tokenizer that spells one token in another way."""
        self.lens.tokenizer.save_pretrained(folder)
        file = folder / "tokenizer.json"
        saved = json.loads(file.read_text())
        saved["model"]["vocab"][token][0] = piece
        file.write_text(json.dumps(saved))
        words = PreTrainedTokenizerFast.from_pretrained(folder)
        vision, projection = self.lens.vision, self.lens.projection.linear
        model = wrapped_model("bridge", self.plain, words)
        lens = attach_vision(model, vision=vision, projection=projection, tokenizer=words)
        return World(lens=lens, plain=self.plain, scenes=self.scenes)

    def context(self, picture: PictureState, settings: object, *, once: Once | None = None) -> Context:
        return Context(picture=picture, settings=settings, scenes=self.scenes, once=Once() if once is None else once)

    def rows(self, experiment: Experiment, settings: object, index: int = 0, **picture: int) -> dict[str, pd.DataFrame]:
        """An experiment's rows of one picture."""
        return experiment.rows(self.context(self.picture(index, **picture), settings))


def make_world(folder: Path, *, kind: str = "bridge", planted: bool = True, blind: bool = False) -> World:
    """Float64 throughout. `planted=False` leaves the neuron writing nothing; `blind=True` lets it fire everywhere."""
    words = make_tokenizer(folder / "tokenizer")
    plain = language_model(words, planted=planted, blind=blind)
    lens = attach_vision(wrapped_model(kind, plain, words), vision=encoder(), projection=linear(), tokenizer=words)
    return World(lens=lens, plain=plain, scenes=make_scenes(folder / "pictures"))


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Every word after a space is one token; other text is split into letters."""
    pieces = ["<|endoftext|>", "Ġ", "A", "Ċ", *"abcdefghijklmnopqrstuvwxyz", *(f"Ġ{word}" for word in WORDS)]
    scores = [-1.0 if len(piece) > 2 else -9.0 for piece in pieces]
    unigram = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    unigram.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="<|endoftext|>").save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def language_model(words: PreTrainedTokenizerFast, *, planted: bool = True, blind: bool = False) -> GPTJForCausalLM:
    config = GPTJConfig(
        vocab_size=len(words), n_positions=64, n_embd=D_MODEL, n_layer=3, n_head=2, rotary_dim=4, n_inner=D_MLP,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = GPTJForCausalLM(config).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for name, own in model.named_parameters():
        noise = torch.randn(own.shape, generator=generator, dtype=torch.float64)
        scale = 0.3 if "wte" in name else 0.15 if "lm_head.weight" in name else 0.03
        own.copy_(noise * scale + (1.0 if "ln" in name and name.endswith("weight") else 0.0))
    ours = [DOG, RED, BLUE, NOTHING]
    unembedding = model.lm_head.weight
    model.transformer.wte.weight[:, ours] = unembedding[:, ours] = 0
    for block in model.transformer.h:
        block.mlp.fc_out.weight[ours] = block.attn.out_proj.weight[ours] = 0
        block.mlp.fc_out.bias[ours] = 0
    for rank, word in enumerate(SPOKEN):
        (token,) = words(f" {word}")["input_ids"]
        unembedding[token, DOG] = 1.5 if rank == 0 else 0.4 - 0.01 * rank
        unembedding[token, NOTHING] = -unembedding[token, DOG]
    first, second = model.transformer.h[0], model.transformer.h[1]
    first.mlp.fc_in.weight[NEURON] = 0
    first.mlp.fc_in.weight[NEURON, RED] = 0 if blind else 3
    first.mlp.fc_in.bias[NEURON] = 1 if blind else -6
    first.mlp.fc_out.weight[:, NEURON] = 0
    if planted:
        first.mlp.fc_out.weight[DOG, NEURON] = 0.3
    d_head = D_MODEL // 2
    for matrix in (second.attn.q_proj, second.attn.k_proj, second.attn.v_proj):
        matrix.weight[:d_head] = 0
    second.attn.v_proj.weight[0, DOG], second.attn.v_proj.weight[0, NOTHING] = 1, -1
    second.attn.out_proj.weight[:, 0] = 0
    second.attn.out_proj.weight[DOG, 0] = 20
    return model


def encoder() -> VisionEncoder:
    """The mean colour of each image patch, as a convolution."""
    mean = nn.Conv2d(3, 3, kernel_size=PATCH, stride=PATCH)
    with torch.no_grad():
        mean.weight.zero_()
        mean.bias.zero_()
        for colour in range(3):
            mean.weight[colour, colour] = 1 / PATCH**2
    return VisionEncoder(mean.double(), preprocessing=Preprocessing(height=SIDE, width=SIDE))


def linear() -> nn.Linear:
    made = nn.Linear(3, D_MODEL).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        made.weight.copy_(0.05 * torch.randn(made.weight.shape, generator=generator))
        made.bias.copy_(0.25 * torch.randn(made.bias.shape, generator=generator))
        made.bias[[DOG, RED, BLUE, NOTHING]] = 0
        made.weight[[DOG, NOTHING]] = 0
        made.weight[RED] = torch.tensor([2.0, -1.0, -1.0])
        made.weight[BLUE] = torch.tensor([-1.0, -1.0, 2.0])
    return made


def make_scenes(folder: Path) -> list[Scene]:
    """Grey pictures with one square each: red for dogs, blue for cats, at different places."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [("dog", (1, 1)), ("cat", (0, 2)), ("dog", (2, 0)), ("cat", (1, 0)), ("dog", (0, 1)), ("cat", (2, 2))]
    return [_scene(folder, 10 + number, name, cell) for number, (name, cell) in enumerate(kinds)]


def nine_dogs(folder: Path) -> list[Scene]:
    """One picture of a dog for each image patch."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_scene(folder, 100 + number, "dog", divmod(number, 3)) for number in range(9)]


def _scene(folder: Path, number: int, name: str, cell: tuple[int, int]) -> Scene:
    side = 3 * CELL
    top, left = cell[0] * CELL, cell[1] * CELL
    picture = Image.new("RGB", (side, side), (128, 128, 128))
    colour = (255, 0, 0) if name == "dog" else (0, 0, 255)
    ImageDraw.Draw(picture).rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=colour)
    path = folder / f"{number}.png"
    picture.save(path)
    corners = [float(x) for x in (left, top, left + CELL, top, left + CELL, top + CELL, left, top + CELL)]
    shown = SceneObject(
        id=number,
        category=name,
        supercategory="animal",
        area=float(CELL**2),
        box=(float(left), float(top), float(CELL), float(CELL)),
        is_crowd=False,
        height=side,
        width=side,
        segmentation=[corners],
        extra={},
    )
    return Scene(
        id=number, path=path, height=side, width=side, captions=(f"A picture of a {name}.",), objects=(shown,), extra={}
    )


def plain_trio(world: World) -> Plain:
    """The same weights for the independent computation."""
    projection = linear()
    return Plain(
        world.plain,
        world.lens.tokenizer,
        projection.weight.detach().numpy(),
        projection.bias.detach().numpy(),
    )
