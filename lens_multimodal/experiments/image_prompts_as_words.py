"""Do image prompts already decode into language about the picture? (paper section 3.1)

Each image position is decoded in two ways: into its nearest tokens by cosine to the input embeddings, as in the paper,
and through the final norm and unembedding. Controls are random tokens, and the same picture through a projection of
random weights that match the trained one in scale; the model's own caption is the upper bound.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd
import torch

from lens_multimodal.analysis import TopTokens, nearest_embeddings, unembed_tokens
from lens_multimodal.analysis.decoding.token_text import rows_of_strings
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared import word_agreement as agreement
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.image_words import WORDS_READ, nearest_to_image_prompts, random_tokens
from lens_multimodal.experiments.shared.nouns import first_words, said
from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.experiments.shared.random_parts import through_random_projection
from lens_multimodal.experiments.shared.summaries import Drawing, Pair, PairedVerdict, SummaryTable
from lens_multimodal.image.patch_cover import covered_positions


@dataclass(frozen=True, kw_only=True)
class ProjectionSettings(agreement.AgreementSettings):
    """How image positions are compared with what they show."""

    covered: float = 0.5
    """Share of an image patch that an object must cover to count as what the position shows."""


# --- summaries over all pictures ------------------------------------------------------------------------------

HITS = {
    "human_noun": "a noun of people's captions",
    "caption_noun": "a noun of the model's caption",
    "shown_noun": "the object that covers the position",
}

WAYS = {"embedding": ", nearest embedding", "unembedding": ", unembedding", "drawn": ""}
"""How tokens were found; random tokens are drawn."""

PROMPTS_AGAINST_RANDOM = Pair(column="source", first="image prompts", second="random tokens")


def _hits(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    positions = tables["positions"]
    labelled = positions.assign(tokens=positions["source"] + positions["way"].map(WAYS))
    return stats.by_measure(labelled, HITS, keys=["source", "way", "tokens"], name="read_as")


def _nearest_to_the_captions_nouns(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["way"] != "unembedding") & (rows["read_as"] == HITS["caption_noun"])]


POSITIONS = SummaryTable(
    name="positions",
    table="positions",
    title="Image positions that decode into a noun",
    caption=(
        "Share of a picture's image positions with a noun among their ten nearest tokens (by cosine to the input "
        "embeddings as in the paper, or through final norm and unembedding), against ten random tokens for each "
        "position and a projection of random weights; mean over {n} pictures, 95 % bootstrap intervals over pictures. "
        "The third kind counts only positions that an object covers."
    ),
    rows=_hits,
    by=("read_as", "tokens"),
    verdict=PairedVerdict(
        pair=PROMPTS_AGAINST_RANDOM,
        where=_nearest_to_the_captions_nouns,
        sentence=(
            "{first} of the image positions have a noun of the caption among their ten nearest tokens, against "
            "{second} with ten random tokens. {said} (n = {n} pictures)."
        ),
        finding="Image prompts have {more}",
        unit="share of image positions with a noun of the caption",
        percent=True,
    ),
    claim="Image prompts already decode into the caption's nouns.",
    drawing=Drawing(kind="bars", x="read_as", series="tokens", y_title="share of image positions"),
)

COMPARED = replace(
    agreement.AGREEMENT,
    verdict=PairedVerdict(
        pair=PROMPTS_AGAINST_RANDOM,
        where=lambda rows: rows[rows["measure"] == agreement.MEASURES["f1"]],
        sentence=(
            "Matched by their embeddings, decoded image prompts agree with people's nouns to an F1 of {first}, random "
            "tokens to {second}. {said} (n = {n} pictures)."
        ),
        finding="Image prompts agree {more}",
        unit="F1 of the embedding match with people's nouns",
    ),
    claim="Decoded image prompts are closer to people's nouns than random tokens are.",
)


# --- rows of one picture ---------------------------------------------------------------------------------------


class Projection(Experiment[ProjectionSettings]):
    """Image prompts decoded into words."""

    name, version = "projection", 2
    question = "Do image prompts already decode into words?"
    answer = "positions"
    tables = ("positions", "agreement")
    summaries = (POSITIONS, COMPARED)

    def rows(self, context: Context[ProjectionSettings]) -> dict[str, pd.DataFrame]:
        picture, model, n_tokens = context.picture, context.picture.lens.model, context.settings.n_tokens
        shown = _what_positions_show(picture, context.settings.covered)
        random_vectors = through_random_projection(context)
        nearest = nearest_to_image_prompts(context)
        unembedded, random_unembedded = (
            unembed_tokens(model, vectors, top_k=WORDS_READ, probabilities=False)
            for vectors in (picture.vectors, random_vectors)
        )
        random_nearest = nearest_embeddings(model, random_vectors, top_k=WORDS_READ)
        read = {
            ("image prompts", "embedding"): nearest,
            ("image prompts", "unembedding"): unembedded,
            ("random projection", "embedding"): random_nearest,
            ("random projection", "unembedding"): random_unembedded,
            ("random tokens", "drawn"): _random(context, len(shown)),
        }
        spoken = {
            "image prompts": agreement.first_distinct(nearest.tokens.tolist(), n_tokens),
            "image prompts, unembedding": agreement.first_distinct(unembedded.tokens.tolist(), n_tokens),
            "random projection": agreement.first_distinct(random_nearest.tokens.tolist(), n_tokens),
            "random tokens": random_tokens(context, n_tokens),
            "caption": picture.caption_ids,
        }
        return self.frames(
            positions=(row for source, found in read.items() for row in _positions(picture, *source, found, shown)),
            agreement=agreement.agreement_rows(context, context.settings, spoken),
        )


def _what_positions_show(picture: PictureState, covered: float) -> list[str | None]:
    """For each image position the category that covers most of its patch, or None."""
    best: list[tuple[float, str | None]] = [(covered, None)] * len(picture.image_pos)
    for category in picture.scene.categories:
        share = covered_positions(picture.layout, picture.scene.seg_mask(category)).tolist()
        best = [max(old, (new, category), key=lambda pair: pair[0]) for old, new in zip(best, share, strict=True)]
    return [name for _, name in best]


def _random(context: Context[ProjectionSettings], n_positions: int) -> TopTokens:
    drawn = random_tokens(context, n_positions * WORDS_READ, purpose="random tokens of positions")
    repeats = -(-n_positions * WORDS_READ // len(drawn))
    tokens = torch.tensor((drawn * repeats)[: n_positions * WORDS_READ]).reshape(n_positions, WORDS_READ)
    return TopTokens(tokens=tokens, values=torch.full(tokens.shape, torch.nan))


def _positions(
    picture: PictureState, source: str, way: str, found: TopTokens, shown: list[str | None]
) -> Iterator[Row]:
    human, own_nouns = first_words(picture.human_nouns), first_words(noun.name for noun in picture.nouns)
    all_ids = found.tokens.tolist()
    all_strings = rows_of_strings(picture.lens.model, all_ids)
    for index, (ids, strings, values) in enumerate(zip(all_ids, all_strings, found.values.tolist(), strict=True)):
        spoken = set(map(said, strings))
        row, col = picture.cell(int(picture.image_pos[index]))
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
            "human_noun": not spoken.isdisjoint(human),
            "caption_noun": not spoken.isdisjoint(own_nouns) if own_nouns else None,
            "shows": own,
            "shown_noun": not spoken.isdisjoint(first_words([own.lower()])) if own else None,
        }
