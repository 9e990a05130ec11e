"""How alike two captions are: by their words, or by a sentence encoder or BERT model that the user gives.

The paper measures an ablation by the BERTScore of the caption after against the caption before (section 3.3). That
needs a further language model, which the user gives as a folder on this machine or as a loaded object. Nothing is
ever downloaded; without such a model, shared words are counted.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Similarity(Protocol):
    """How alike each pair of texts is: 1 for the same meaning, less for others."""

    @property
    def name(self) -> str:
        """The name of the numbers in tables."""

    def __call__(self, before: Sequence[str], after: Sequence[str]) -> Float[Tensor, " pair"]:
        """One number per pair."""


@dataclass(frozen=True)
class WordOverlap:
    """Shared words as a share of all words, 0 to 1 (Dice coefficient over words counted as often as they occur).

    Case and punctuation do not count; two texts without words are the same.
    """

    name: str = field(default="word_overlap", init=False)

    def __call__(self, before: Sequence[str], after: Sequence[str]) -> Float[Tensor, " pair"]:
        return torch.tensor([_dice(_words(a), _words(b)) for a, b in zip(before, after, strict=True)])


WORD_OVERLAP = WordOverlap()


class SentenceCosine:
    """Cosine of sentence embeddings, -1 to 1.

    Args: model: a folder that `sentence_transformers` loads, or any object with `encode(list of texts)`, such as a
        loaded `SentenceTransformer`, that returns one vector per text.
    Raises: FileNotFoundError for a folder that does not exist; ImportError without sentence-transformers; TypeError for
        an object without `encode`.
    """

    name = "sentence_cosine"

    def __init__(self, model: Any) -> None:
        self.model = _sentence_transformer(model) if isinstance(model, (str, Path)) else model
        if not callable(getattr(self.model, "encode", None)):
            raise TypeError(
                f"expected the folder of a sentence encoder or an object with encode(texts), got {type(model).__name__}"
            )

    def __call__(self, before: Sequence[str], after: Sequence[str]) -> Float[Tensor, " pair"]:
        texts = list(dict.fromkeys([*before, *after]))
        vectors = torch.as_tensor(self.model.encode(texts)).float().cpu()
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(
                f"the sentence encoder returned shape {list(vectors.shape)} for {len(texts)} texts, expected "
                f"[{len(texts)}, width]"
            )
        at = {text: index for index, text in enumerate(texts)}
        one, other = (vectors[[at[text] for text in side]] for side in (before, after))
        return _finite(torch.nn.functional.cosine_similarity(one, other, dim=-1), self.name)


class BertScore:
    """BERTScore F1 (Zhang et al. 2020) with an encoder that the user gives, computed by torchmetrics without rescaling.

    Texts without any word have no score of their own: 1 against each other, 0 against anything else.

    Args:
        model: the folder of a Hugging Face encoder and its tokenizer.
        layer: whose output is compared; None for the last.
    Raises: FileNotFoundError for a folder that does not exist; ImportError without torchmetrics.
    """

    name = "bert_score"

    def __init__(self, model: str | Path, *, layer: int | None = None) -> None:
        folder = model_folder(model, "BERTScore")
        try:
            from torchmetrics.functional.text.bert import bert_score
        except ImportError as error:
            raise ImportError("BERTScore is computed by torchmetrics: pip install torchmetrics") from error
        from transformers import AutoModel, AutoTokenizer

        self._score = bert_score
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.layer = layer

    def __call__(self, before: Sequence[str], after: Sequence[str]) -> Float[Tensor, " pair"]:
        pairs = list(zip(before, after, strict=True))
        found = {pair: self._pair(*pair) for pair in dict.fromkeys(pairs)}
        return _finite(torch.tensor([found[pair] for pair in pairs]), self.name)

    def _pair(self, before: str, after: str) -> float:
        """One pair at a time: torchmetrics 1.9 sorts each side by length and mixes up pairs of unequal order."""
        if not (_words(before) and _words(after)):
            return float(_words(before) == _words(after))
        longest = max(len(ids) for ids in self._tokenizer([before, after])["input_ids"])
        score: Any = self._score(
            [after],
            [before],
            model=self._model,
            user_tokenizer=self._tokenizer,
            num_layers=self.layer,
            max_length=min(longest, self._tokenizer.model_max_length),
            truncation=True,
        )
        return float(score["f1"])


def model_folder(folder: str | Path, what: str) -> Path:
    """The folder of a model that the user gives. Raises: FileNotFoundError if it does not exist."""
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"no folder {str(folder)!r} with a {what} model; nothing is downloaded here: download the model and "
            f"give its folder"
        )
    return path


def _dice(one: Counter[str], other: Counter[str]) -> float:
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+(?:['\u2019]\w+)*", text.lower()))


def _sentence_transformer(folder: str | Path) -> Any:
    found = model_folder(folder, "sentence encoder")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "a folder with a sentence encoder is read by sentence-transformers: pip install sentence-transformers, or "
            "give an object with encode(texts)"
        ) from error
    return SentenceTransformer(str(found), local_files_only=True)


def _finite(values: Float[Tensor, " pair"], name: str) -> Float[Tensor, " pair"]:
    if not bool(values.isfinite().all()):
        raise FloatingPointError(
            f"{int((~values.isfinite()).sum())} of {len(values)} similarities by {name} are not finite: check the model"
        )
    return values
