"""Do image prompts already decode into language about the picture? (paper section 3.1)

Every image position is read as its nearest tokens by cosine to the input embeddings, the paper's way, and through
the final norm and unembedding. Compared with random tokens, with the same picture through a projection of random
weights (matched in scale to the trained one), and with the model's own caption.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch

from lens_multimodal.analysis import TopTokens, nearest_embeddings, token_strings, unembed_tokens
from lens_multimodal.data import Scene
from lens_multimodal.experiments.controls.models import random_projection, vectors_of
from lens_multimodal.experiments.experiment import Context, Summary
from lens_multimodal.experiments.picture import PictureState
from lens_multimodal.experiments.picture.regions import covered_share
from lens_multimodal.experiments.projection import summary
from lens_multimodal.experiments.projection.tokens import (
    WORDS_READ,
    nearest_to_image_prompts,
    random_tokens,
    read_out_image_prompts,
)
from lens_multimodal.experiments.words import says
from lens_multimodal.experiments.words.agreement import Agreement, AgreementSettings, first_distinct


@dataclass(frozen=True, kw_only=True)
class ProjectionSettings(AgreementSettings):
    """How image positions are compared with what they show."""

    covered: float = 0.5
    """Share of an image patch that an object must cover to count as what the position shows."""


class Projection:
    """Image prompts read as words."""

    name = "projection"
    version = 2
    tables = ("positions", "agreement")
    settings = ProjectionSettings

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:
        picture: PictureState = context.picture
        settings: ProjectionSettings = context.settings
        shown = _what_positions_show(scene, picture, settings.covered)
        random_vectors = vectors_of(context.lens, picture.image, projection=random_projection(context))
        read = {
            ("image prompts", "embedding"): nearest_to_image_prompts(context),
            ("image prompts", "unembedding"): read_out_image_prompts(context),
            ("random projection", "embedding"): nearest_embeddings(
                context.lens.model, random_vectors, top_k=WORDS_READ
            ),
            ("random projection", "unembedding"): unembed_tokens(
                context.lens.model, random_vectors, top_k=WORDS_READ, probabilities=False
            ),
            ("random tokens", "drawn"): _random(context, len(shown)),
        }
        positions = [row for key, found in read.items() for row in _positions(context, *key, found, shown)]
        agreement = Agreement.of(context, settings)
        spoken = {
            "image prompts": first_distinct(read["image prompts", "embedding"].tokens.tolist(), settings.n_tokens),
            "image prompts, unembedding": first_distinct(
                read["image prompts", "unembedding"].tokens.tolist(), settings.n_tokens
            ),
            "random projection": first_distinct(
                read["random projection", "embedding"].tokens.tolist(), settings.n_tokens
            ),
            "random tokens": random_tokens(context, settings.n_tokens),
            "caption": picture.caption_ids,
        }
        compared = [
            {"image_id": scene.id, "source": source, **agreement.measures(tokens)}
            for source, tokens in spoken.items()
            if tokens
        ]
        return {"positions": pd.DataFrame(positions), "agreement": pd.DataFrame(compared)}

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        return summary.summarise(rows, seed=seed)


def _what_positions_show(scene: Scene, picture: PictureState, covered: float) -> list[str | None]:
    """For each image position the name of the category that covers most of its patch, or None."""
    best: list[tuple[float, str | None]] = [(covered, None)] * len(picture.image_pos)
    for category in scene.categories:
        share = covered_share(picture.geometry, scene.seg_mask(category)).flatten().tolist()
        best = [max(old, (new, category), key=lambda pair: pair[0]) for old, new in zip(best, share, strict=True)]
    return [name for _, name in best]


def _random(context: Context, n_positions: int) -> TopTokens:
    drawn = random_tokens(context, n_positions * WORDS_READ, purpose="random tokens of positions")
    repeats = -(-n_positions * WORDS_READ // len(drawn))
    tokens = torch.tensor((drawn * repeats)[: n_positions * WORDS_READ]).reshape(n_positions, WORDS_READ)
    return TopTokens(tokens=tokens, values=torch.full(tokens.shape, torch.nan))


def _positions(
    context: Context, source: str, way: str, found: TopTokens, shown: list[str | None]
) -> Iterator[dict[str, object]]:
    picture: PictureState = context.picture
    human, said = set(picture.human_nouns), {noun.name for noun in picture.nouns}
    for index, (ids, values) in enumerate(zip(found.tokens.tolist(), found.values.tolist(), strict=True)):
        strings = token_strings(context.lens.model, ids)
        row, col = divmod(index, picture.grid[1])
        own = shown[index]
        yield {
            "image_id": picture.scene.id,
            "source": source,
            "way": way,
            "row": row,
            "col": col,
            "tokens": strings,
            "token_ids": ids,
            "best": values[0] if source != "random tokens" else None,
            "human_noun": any(says(string, human) for string in strings),
            "caption_noun": any(says(string, said) for string in strings) if said else None,
            "shows": own,
            "shown_noun": any(says(string, {own.lower()}) for string in strings) if own else None,
        }
