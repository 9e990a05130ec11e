"""How well some tokens agree with a picture's nouns: words in common, and closeness of their embeddings.

Closeness is BERTScore's greedy matching (Zhang et al. 2020) on the language model's own input embeddings: each token is
matched with the nearest token of the other side, by cosine. The vocabulary's mean embedding is subtracted first, since
otherwise all tokens of a real model are close to each other.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.decoding.token_text import token_strings
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.nouns import says
from lens_multimodal.experiments.shared.pretrained_scores import bert_score, clip_score
from lens_multimodal.experiments.shared.settings_checks import require_at_least
from lens_multimodal.experiments.shared.summaries import Drawing, SummaryTable
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingSpace:
    """The input embeddings of a language model, centred."""

    table: Float[Tensor, "d_vocab d_model"] = field(repr=False)
    mean: Float[Tensor, " d_model"] = field(repr=False)

    @classmethod
    def of(cls, model: nn.Module) -> "EmbeddingSpace":
        table = transformer.w_e(model).detach()
        return cls(table=table, mean=table.mean(dim=0, dtype=torch.float32))

    def cosine(self, first: Sequence[int], second: Sequence[int]) -> Float[Tensor, "first second"]:
        """Cosine of each token with each other."""
        left, right = (
            nn.functional.normalize(wide(self.table[list(ids)]) - self.mean, dim=-1) for ids in (first, second)
        )
        return left @ right.T

    def agreement(self, said: Sequence[int], reference: Sequence[int]) -> tuple[float, float, float]:
        """Precision (how close each token of `said` comes to the reference), recall (the reverse) and their F1.

        Cosines, from -1 to 1; NaN for an empty side. F1 is 0 unless both are positive.
        """
        if not said or not reference:
            return float("nan"), float("nan"), float("nan")
        cosine = self.cosine(said, reference)
        precision, recall = float(cosine.amax(dim=1).mean()), float(cosine.amax(dim=0).mean())
        both = precision > 0 and recall > 0
        return precision, recall, 2 * precision * recall / (precision + recall) if both else 0.0


@dataclass(frozen=True, kw_only=True)
class AgreementSettings:
    """How decoded words are compared with a picture and its human captions.

    BERTScore and CLIPScore need models that are not part of this library: give the folder of each.

    Raises: ValueError without a token to compare.
    """

    n_tokens: int = 50
    """At most this many distinct tokens of each source, so that no source profits from saying more."""
    bertscore_model: str | None = None
    """Folder of a Hugging Face text encoder."""
    clipscore_model: str | None = None
    """Folder of a Hugging Face CLIP model."""

    def __post_init__(self) -> None:
        require_at_least(self, n_tokens=1)


def embedding_space(context: Context[Any]) -> EmbeddingSpace:
    """The language model's embedding space, made once in a process."""
    return context.once("embedding space", lambda: EmbeddingSpace.of(context.picture.lens.model))


def agreement_rows(
    context: Context[Any], settings: AgreementSettings, spoken: Mapping[str, Sequence[int]]
) -> Iterator[Row]:
    """One row for each source that has tokens: how well they agree with the picture.

    Measured are, for the nouns of people and of the model's caption, the share of tokens that are one (`..._hits`) and
    the share of nouns among the tokens (`..._found`); `precision`, `recall` and `f1` of the embedding match with
    people's nouns; `bertscore` with human captions and `clipscore` with the picture, None without their models.
    """
    picture = context.picture
    human, said = picture.human_nouns, tuple(noun.name for noun in picture.nouns)
    reference = [picture.noun_finder.first_token(name) for name in human]
    for source, tokens in spoken.items():
        if not tokens:
            continue
        strings = token_strings(picture.lens.model, tokens)
        text = " ".join(string.strip() for string in strings)
        human_hits, human_found = word_match(strings, human)
        caption_hits, caption_found = word_match(strings, said)
        precision, recall, f1 = embedding_space(context).agreement(tokens, reference)
        yield {
            "image_id": picture.scene.id,
            "source": source,
            "tokens": strings,
            "human_hits": human_hits,
            "human_found": human_found,
            "caption_hits": caption_hits,
            "caption_found": caption_found,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "bertscore": bert_score(text, picture.scene.captions, settings.bertscore_model, once=context.once),
            "clipscore": clip_score(text, picture.image, settings.clipscore_model, once=context.once),
        }


MEASURES = {
    "human_hits": "tokens that are people's nouns",
    "human_found": "people's nouns found",
    "caption_hits": "tokens that are the caption's nouns",
    "caption_found": "the caption's nouns found",
    "f1": "embedding match with people's nouns (F1)",
    "bertscore": "BERTScore with people's captions",
    "clipscore": "CLIPScore with the picture",
}
"""Columns of the agreement tables and their labels."""

_PAPERS_SOURCES = {
    "random tokens": "random",
    "image prompts": "image_prompts",
    "neurons": "neurons",
    "caption": "caption",
}
_PAPERS_SCORES = {MEASURES[score]: score for score in ("bertscore", "clipscore")}


def _paper_key(row: Any, _: object) -> str | None:
    score, source = _PAPERS_SCORES.get(row.measure), _PAPERS_SOURCES.get(row.source)
    return f"projection.{score}.{source}" if score and source else None


def _not_available(long: pd.DataFrame) -> dict[str, str]:
    known = set(long.loc[long["value"].notna(), "measure"])
    absent = [label for label in MEASURES.values() if label not in known]
    note = f" Not available here: {', '.join(absent)} (give the folder of a model in the settings)." if absent else ""
    return {"note": note}


AGREEMENT = SummaryTable(
    name="agreement",
    table="agreement",
    title="Agreement of decoded words with the picture",
    caption=(
        "Each source says at most the same number of distinct tokens (the caption: its own). Mean over {n} pictures "
        "with 95 % bootstrap intervals over pictures.{note}"
    ),
    rows=lambda tables: stats.by_measure(tables["agreement"], MEASURES, keys=["source"]),
    by=("measure", "source"),
    facts=_not_available,
    paper_key=_paper_key,
    drawing=Drawing(kind="bars", x="source", series="source", panels="measure", y_title="share or similarity"),
)
"""Every measure of agreement for every source of tokens."""


def word_match(strings: Sequence[str], names: Collection[str]) -> tuple[float, float]:
    """Share of tokens that are one of some nouns, and share of these nouns among the tokens; NaN if there are none."""
    if not strings or not names:
        return float("nan"), float("nan")
    hits = sum(says(string, names) for string in strings) / len(strings)
    found = sum(any(says(string, {name}) for string in strings) for name in names) / len(names)
    return hits, found


def first_distinct(rows: Sequence[Sequence[int]], count: int) -> list[int]:
    """The first `count` distinct tokens: the best of every row, then the second best of every row, and so on.

    >>> first_distinct([[1, 2], [1, 3], [4, 5]], 4)
    [1, 4, 2, 3]
    """
    longest = max(map(len, rows), default=0)
    ordered = (row[rank] for rank in range(longest) for row in rows if rank < len(row))
    return list(dict.fromkeys(ordered))[:count]
