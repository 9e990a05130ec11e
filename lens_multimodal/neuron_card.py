"""Measure what one neuron does: decode it, find the pictures it is active on, attribute a token to it, ablate it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from lens_multimodal import transformer
from lens_multimodal.analysis import (
    Effect,
    ReceptiveField,
    decode_neurons,
    effects_of,
    neuron_activations,
    neuron_attribution,
    receptive_field,
)
from lens_multimodal.arguments.targets import Token, read_token
from lens_multimodal.arguments.units import read_neuron_pairs
from lens_multimodal.atlas import Atlas, AtlasEntry
from lens_multimodal.hooks import ablate
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.image.pictures import Picture, as_pictures
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePrompt

SAMPLES = 24
"""Number of embedded scenes measured if no pictures are given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleActivation:
    """How active a neuron is on one sample picture."""

    index: int
    """The picture's number among the samples."""
    picture: Image.Image
    activations: Float[Tensor, " image_pos"]
    field: ReceptiveField

    @property
    def largest(self) -> float:
        return float(self.activations.max())


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronCard(ShownInNotebooks):
    """What one MLP neuron does for one token after one picture; notebooks show it as HTML.

    `views.plots` draws its parts: `activation_figure(card)`, `attribution_figure(card)` and
    `receptive_field_figure(card)`.
    """

    layer: int
    neuron: int
    tokens: tuple[str, ...]
    """The tokens it promotes, strongest first (`analysis.decode_neurons`)."""
    weights: tuple[float, ...]
    interpretable: bool
    picture: Image.Image
    layout: ImageLayout
    """What each image position shows."""
    text: str
    """The prompt after the image, up to the target."""
    target: str
    activations: Float[Tensor, " image_pos"]
    field: ReceptiveField
    attribution: Float[Tensor, " image_pos"]
    """Contribution of the neuron at each image position to the target's logit."""
    effect: Effect
    """Effect on the target of setting the neuron to zero at the image positions."""
    last_attribution: float
    """Contribution of the neuron at the last position, where the target is predicted, to the target's logit."""
    last_effect: Effect
    """Effect on the target of setting the neuron to zero at the last position."""
    samples: tuple[SampleActivation, ...]
    """All sample pictures, the most active first."""
    weight_processing: str
    """Weight processing of the language model; decoded tokens depend on it."""
    atlas: AtlasEntry | None = None
    """Its entry in an atlas: the image patches of a whole data set that drive it, its selectivity for categories."""


def neuron_card(
    lens: CaptioningModel,
    neuron: Any,
    *,
    image: Picture | ImagePrompt | None = None,
    target: Token | None = None,
    pictures: Sequence[Picture] | None = None,
    text: str | None = None,
    batch_size: int = 16,
    atlas: Atlas | str | Path | None = None,
) -> NeuronCard:
    """Everything about one neuron: receptive field, decoded tokens, attribution, ablation, sample pictures.

    Args:
        neuron: `(layer, neuron)`, or a row of a table of neurons (`found.iloc[0]`).
        image: a picture, or a prompt of one row that ends where the target is predicted. None takes the sample picture
            on which the neuron is most active.
        target: a token id, or a string that is one token. None takes the token of the model's own caption to which the
            neuron contributes most; for a prompt, the most likely next token.
        pictures: the samples; None takes `SAMPLES` of the embedded scenes.
        text: the prompt after a picture; None takes the lens' `caption_text`.
        batch_size: sample pictures in one forward pass.
        atlas: an atlas of this lens, or its folder; the card shows what it says of the neuron.

    Raises:
        ValueError: more than one neuron, one that does not exist or is not in the atlas, an image without a patch grid,
            an atlas of other weights.
        FileNotFoundError: the folder holds no finished atlas.
    Cost: one forward pass per batch of samples, three for the card, one backward pass for each candidate token; for an
        atlas, all weights are hashed once.
    """
    text = lens.caption_text if text is None else text
    pair = _one_neuron(lens.model, neuron)
    known = None if atlas is None else Atlas.of(lens, atlas).neuron(*pair)
    samples = sorted(_samples(lens, pair, _pictures(pictures), text, batch_size), key=lambda sample: -sample.largest)
    prompt, token = _prompt_and_target(lens, pair, samples[0].picture if image is None else image, target, text)
    span = prompt.spans[0][0]
    picture, layout = span.image.picture, span.image.layout
    if picture is None or not layout.is_placed:
        raise ValueError(
            "a neuron card draws activations over a picture, but this prompt's image has no picture, or not exactly "
            "one vector for each image patch; give a picture, or a prompt made by lens.prompt"
        )
    positions = list(span.positions)
    activations = neuron_activations(lens.model, prompt.tokens, [pair], positions)[0, 0].cpu()
    attribution = neuron_attribution(lens.model, prompt.tokens, token, layers=[pair[0]])[0, 0, :, pair[1]].cpu()
    effect, last_effect = effects_of(
        lens.model,
        prompt.tokens,
        [ablate(lens.model, [pair], positions=prompt.at(where)) for where in ("image", "last")],
        token,
    )
    decoded = decode_neurons(lens.model, [pair]).iloc[0]
    d_vocab = transformer.shape(lens.model).d_vocab
    return NeuronCard(
        layer=pair[0],
        neuron=pair[1],
        tokens=tuple(decoded["tokens"]),
        weights=tuple(float(weight) for weight in decoded["weights"]),
        interpretable=bool(decoded["interpretable"]),
        picture=picture,
        layout=layout,
        text=lens.text.decode([i for i in prompt.tokens[0, span.stop :].tolist() if i < d_vocab]),
        target=lens.text.token(token),
        activations=activations,
        field=receptive_field(activations, layout),
        attribution=attribution[positions],
        effect=effect,
        last_attribution=float(attribution[prompt.last_pos]),
        last_effect=last_effect,
        samples=tuple(samples),
        weight_processing=transformer.weight_processing(lens.model),
        atlas=known,
    )


def _one_neuron(model: nn.Module, neuron: Any) -> tuple[int, int]:
    if isinstance(neuron, pd.DataFrame):
        neurons: Any = neuron
    elif hasattr(neuron, "layer") and hasattr(neuron, "neuron"):
        neurons = [(neuron.layer, neuron.neuron)]
    else:
        neurons = [neuron]
    found = read_neuron_pairs(model, neurons, name="neuron")
    if len(found) != 1:
        raise ValueError(
            f"a card shows one neuron, got a table of {len(found)}; give (layer, neuron) or a row: "
            f"lens.show(found.iloc[0], ...)"
        )
    return found[0]


def _pictures(pictures: Sequence[Picture] | None) -> list[Any]:
    if pictures is not None:
        return list(as_pictures(pictures))
    # Imported here, because only a card without pictures needs the embedded scenes.
    from lens_multimodal.data import read_coco
    from lens_multimodal.tiny import scenes_folder

    scenes = read_coco(scenes_folder(), with_captions=False)
    return [scene.open() for scene in scenes[:: max(1, len(scenes) // SAMPLES)][:SAMPLES]]


def _samples(
    lens: CaptioningModel, pair: tuple[int, int], pictures: list[Any], text: str, batch_size: int
) -> Iterator[SampleActivation]:
    for start in tqdm(range(0, len(pictures), batch_size), desc="sample pictures", delay=2):
        prompt = lens.prompt(pictures[start : start + batch_size], text)
        activations = neuron_activations(lens.model, prompt.tokens, [pair], attention_mask=prompt.attention_mask)
        for row, (span, *_) in enumerate(prompt.spans):
            at_image = activations[row, 0, list(span.positions)].cpu()
            yield _sample(start + row, pictures[start + row], span.image, at_image)
        lens.forget(prompt)


def _sample(index: int, picture: Image.Image, image: EmbeddedImage, activations: Tensor) -> SampleActivation:
    if not image.layout.is_placed:
        raise ValueError(
            f"it is not known which part of the picture each of the {len(activations)} image positions shows, and a "
            f"neuron card draws its activation over the picture"
        )
    field = receptive_field(activations, image.layout)
    return SampleActivation(index=index, picture=picture, activations=activations, field=field)


def _prompt_and_target(
    lens: CaptioningModel, pair: tuple[int, int], image: Picture | ImagePrompt, target: Token | None, text: str
) -> tuple[ImagePrompt, int]:
    """The prompt that ends where the target is predicted, and the target."""
    token = None if target is None else read_token(lens.model, target, name="target", tokenizer=lens.tokenizer)
    if isinstance(image, ImagePrompt):
        if len(image) != 1 or not image.spans[0]:
            raise ValueError(f"expected a prompt of one row with an image, got {len(image)} rows (prompt.row(i))")
        return image, _next_token(lens.model, image) if token is None else token
    if token is not None:
        return lens.prompt_before(image, token, text), token
    prompt = lens.prompt([image], text)
    (ids,) = lens.generate_ids(prompt, max_new_tokens=20)
    if not ids:
        return prompt, _next_token(lens.model, prompt)
    token = _most_raised(lens.model, pair, prompt, ids)
    return lens.prompt_before(image, token, text), token


def _most_raised(model: nn.Module, pair: tuple[int, int], prompt: ImagePrompt, ids: list[int]) -> int:
    """The caption token to whose logit the neuron contributes most at any one image position."""
    first_index = {token: index for index, token in reversed(list(enumerate(ids)))}
    targets = [(prompt.last_pos + index, token) for token, index in first_index.items()]
    tokens = prompt.followed_by(ids).tokens
    by_target = neuron_attribution(model, tokens, targets, prompt.image_pos[0], layers=[pair[0]])[:, 0, :, pair[1]]
    return list(first_index)[int(by_target.amax(dim=-1).argmax())]


def _next_token(model: nn.Module, prompt: ImagePrompt) -> int:
    with torch.no_grad():
        return int(transformer.logits_of(model, prompt.tokens, attention_mask=prompt.attention_mask)[0, -1].argmax())
