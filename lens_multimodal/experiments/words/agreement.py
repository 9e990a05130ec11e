"""How well some tokens agree with some others: words in common, and closeness of their embeddings.

The closeness is BERTScore's greedy matching (Zhang et al. 2020) on the language model's own input embeddings instead
of a text encoder's: each token is matched with the nearest token of the other side, by cosine after the mean
embedding of the vocabulary is subtracted (without which all tokens of a real model are close).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.decoding.token_text import token_strings
from lens_multimodal.experiments.experiment import Context
from lens_multimodal.experiments.picture import PictureState
from lens_multimodal.experiments.words import says
from lens_multimodal.experiments.words.scores import bert_score, clip_score
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
        """Precision (how near each said token comes to the reference), recall (the reverse) and their F1.

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
    """How decoded words are compared with a picture and what people say of it.

    BERTScore and CLIPScore need models that this library does not bring: give the folder of one on this machine.

    Raises: ValueError without a token to compare.
    """

    n_tokens: int = 50
    """Different tokens that each source may say at most: the same for all, so that none profits from saying more."""
    bertscore_model: str | None = None
    """Folder of a Hugging Face text encoder."""
    clipscore_model: str | None = None
    """Folder of a Hugging Face CLIP model."""

    def __post_init__(self) -> None:
        if self.n_tokens < 1:
            raise ValueError(f"n_tokens must be at least 1, got {self.n_tokens}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How well tokens agree with one picture: its nouns as people and the model say them, its captions, itself."""

    context: Context
    picture: PictureState
    settings: AgreementSettings
    space: EmbeddingSpace

    @classmethod
    def of(cls, context: Context, settings: AgreementSettings) -> "Agreement":
        """The agreement of a context's picture; the embedding space is made once in a process."""
        space = context.once("embedding space", lambda: EmbeddingSpace.of(context.lens.model))
        return cls(context=context, picture=context.picture, settings=settings, space=space)

    def measures(self, tokens: Sequence[int]) -> dict[str, object]:
        """All measures of some tokens.

        Returns: `tokens` as text; for the nouns of people and of the model's caption the share of tokens that are one
            (`..._hits`), the share of nouns that are said (`..._found`); `precision`, `recall`, `f1` of the embedding
            match with people's nouns; `bertscore` with people's captions and `clipscore` with the picture, None
            without their models.
        """
        strings = token_strings(self.context.lens.model, tokens)
        human, said = self.picture.human_nouns, tuple(noun.name for noun in self.picture.nouns)
        human_hits, human_found = word_match(strings, human)
        said_hits, said_found = word_match(strings, said)
        reference = [self.context.words.first_token(name) for name in human]
        precision, recall, f1 = self.space.agreement(tokens, reference)
        text = " ".join(string.strip() for string in strings)
        return {
            "tokens": strings,
            "human_hits": human_hits,
            "human_found": human_found,
            "caption_hits": said_hits,
            "caption_found": said_found,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "bertscore": bert_score(
                text, self.picture.scene.captions, self.settings.bertscore_model, once=self.context.once
            ),
            "clipscore": clip_score(text, self.picture.image, self.settings.clipscore_model, once=self.context.once),
        }


def word_match(strings: Sequence[str], names: Collection[str]) -> tuple[float, float]:
    """Share of tokens that are one of some nouns, and share of the nouns that are said; NaN if there are none."""
    if not strings or not names:
        return float("nan"), float("nan")
    hits = sum(says(string, names) for string in strings) / len(strings)
    found = sum(any(says(string, {name}) for string in strings) for name in names) / len(names)
    return hits, found


def first_distinct(rows: Sequence[Sequence[int]], count: int) -> list[int]:
    """The first `count` different tokens, taking the best of every row, then the second best of every row, and so on.

    >>> first_distinct([[1, 2], [1, 3], [4, 5]], 4)
    [1, 4, 2, 3]
    """
    longest = max(map(len, rows), default=0)
    ordered = (row[rank] for rank in range(longest) for row in rows if rank < len(row))
    return list(dict.fromkeys(ordered))[:count]
