"""Measure one neuron for a card: decode it, look at pictures, attribute, ablate."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from lens_multimodal import transformer
from lens_multimodal.analysis import (
    ImageGeometry,
    decode_neurons,
    effect_of,
    neuron_activations,
    neuron_attribution,
    receptive_field,
)
from lens_multimodal.hooks import ablate, read_neurons
from lens_multimodal.image.pictures import Picture, as_pictures
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt import generation
from lens_multimodal.prompt.image_prompt import PROMPT, ImagePrompt
from lens_multimodal.views.notebook.neuron_card_html import NeuronCard, SampleActivation

SAMPLES = 24
"""Sample scenes looked at if no pictures are given."""


def neuron_card(
    lens: VisionLens,
    neuron: Any,
    *,
    image: Picture | ImagePrompt | None = None,
    target: str | int | None = None,
    pictures: Sequence[Picture] | None = None,
    text: str = PROMPT,
    batch_size: int = 16,
) -> NeuronCard:
    """See `VisionLens.show`."""
    pair = _one_neuron(lens, neuron)
    samples = _samples(lens, pair, _sample_pictures(pictures), text, batch_size)
    if image is None:
        image = samples[0].picture
    prompt, token = _where(lens, pair, image, target, text)
    span = prompt.spans[0][0]
    positions = list(range(span.start, span.stop))
    geometry = span.image.geometry
    if span.image.picture is None or geometry is None:
        raise ValueError(
            "a neuron card lays activations over a picture, but this prompt's image came without one, or its vectors "
            "are not one for each image patch; give a picture, or a prompt made by lens.prompt"
        )
    activations = neuron_activations(lens.model, prompt.tokens, [pair], positions)[0, 0].reshape(prompt_grid(geometry))
    attribution = neuron_attribution(lens.model, prompt.tokens, token, positions, layers=[pair[0]])[0, 0, :, pair[1]]
    hooks = ablate(lens.model, [pair], positions=prompt.image_pos[0])
    written = decode_neurons(lens.model, [pair]).iloc[0]
    after_image = prompt.tokens[0, span.stop :].tolist()
    return NeuronCard(
        layer=pair[0],
        neuron=pair[1],
        tokens=tuple(written["tokens"]),
        weights=tuple(float(weight) for weight in written["weights"]),
        interpretable=bool(written["interpretable"]),
        picture=span.image.picture,
        geometry=geometry,
        text=lens.text.decode([i for i in after_image if i < lens.shape.d_vocab]),
        target=lens.to_str_tokens(torch.tensor([token]))[0],
        activations=activations.cpu(),
        field=receptive_field(activations.cpu(), geometry),
        attribution=attribution.reshape(prompt_grid(geometry)).cpu(),
        effect=effect_of(lens.model, prompt.tokens, hooks, token),
        samples=tuple(samples),
        weight_processing=transformer.weight_processing(lens.model),
    )


def prompt_grid(geometry: ImageGeometry) -> tuple[int, int]:
    """Rows and columns of image patches."""
    return geometry.grid_h, geometry.grid_w


def _one_neuron(lens: VisionLens, neuron: Any) -> tuple[int, int]:
    if isinstance(neuron, pd.DataFrame):
        pairs: Any = neuron
    elif hasattr(neuron, "layer") and hasattr(neuron, "neuron"):
        pairs = [(neuron.layer, neuron.neuron)]
    else:
        pairs = [neuron]
    found = [(layer, int(unit)) for layer, units in read_neurons(lens.model, pairs).items() for unit in units]
    if len(found) != 1:
        raise ValueError(
            f"a card shows one neuron, got a table of {len(found)}; give (layer, neuron) or a row: "
            f"lens.show(found.iloc[0], ...)"
        )
    return found[0]


def _sample_pictures(pictures: Sequence[Picture] | None) -> list[Any]:
    if pictures is not None:
        return list(as_pictures(pictures))
    from lens_multimodal.data import read_coco
    from lens_multimodal.tiny import scenes_folder

    scenes = read_coco(scenes_folder(), with_captions=False)
    return [scene.open() for scene in scenes[:: max(1, len(scenes) // SAMPLES)][:SAMPLES]]


def _samples(
    lens: VisionLens, pair: tuple[int, int], pictures: list[Any], text: str, batch_size: int
) -> list[SampleActivation]:
    """Every picture with the neuron's activation on it, the most active first."""
    found = []
    for start in tqdm(range(0, len(pictures), batch_size), desc="sample pictures", delay=2):
        prompt = lens.prompt(pictures[start : start + batch_size], text)
        at = prompt.image_pos[0]
        activations = neuron_activations(lens.model, prompt.tokens, [pair], at, attention_mask=prompt.attention_mask)
        for row, (own, spans) in enumerate(zip(activations[:, 0].cpu(), prompt.spans, strict=True)):
            geometry = spans[0].image.geometry
            if geometry is None:
                raise ValueError(
                    f"the projection gives {len(own)} vectors per image, not one for each of the encoder's image "
                    f"patches; a neuron card needs a patch grid"
                )
            grid = own.reshape(prompt_grid(geometry))
            found.append(
                SampleActivation(
                    index=start + row,
                    picture=pictures[start + row],
                    activations=grid,
                    field=receptive_field(grid, geometry),
                )
            )
        lens.forget(prompt)
    return sorted(found, key=lambda sample: -sample.largest)


def _where(
    lens: VisionLens, pair: tuple[int, int], image: Picture | ImagePrompt, target: str | int | None, text: str
) -> tuple[ImagePrompt, int]:
    """The prompt that ends where the target is predicted, and the target."""
    token = lens.text.token_id(target) if isinstance(target, str) else target
    if isinstance(image, ImagePrompt):
        if len(image) != 1 or not image.spans[0]:
            raise ValueError(f"expected a prompt of one row with an image, got {len(image)} rows (prompt.row(i))")
        return image, _next_token(lens, image) if token is None else token
    if token is not None:
        return lens.prompt_before(image, token, text), token
    prompt = lens.prompt(image, text)
    (ids,) = generation.generate(lens.model, prompt, max_new_tokens=20, stop_ids=lens.text.stop_ids)
    ids = lens.text.first_line(ids)
    if not ids:
        return prompt, _next_token(lens, prompt)
    token = _most_raised(lens, pair, prompt, ids)
    return lens.prompt_before(image, token, text), token


def _most_raised(lens: VisionLens, pair: tuple[int, int], prompt: ImagePrompt, ids: list[int]) -> int:
    """The caption's token in whose logit the neuron has the largest share at an image position."""
    first = {token: index for index, token in reversed(list(enumerate(ids)))}
    targets = [(prompt.last_pos + index, token) for token, index in first.items()]
    shares = neuron_attribution(
        lens.model, prompt.followed_by(ids).tokens, targets, prompt.image_pos[0], layers=[pair[0]]
    )[:, 0, :, pair[1]]
    return list(first)[int(shares.amax(dim=-1).argmax())]


def _next_token(lens: VisionLens, prompt: ImagePrompt) -> int:
    with torch.no_grad():
        return int(lens.logits(prompt)[0, -1].argmax())
