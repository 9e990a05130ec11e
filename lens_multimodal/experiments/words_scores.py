"""BERTScore and CLIPScore through torchmetrics, for those who have the models; None for those who have not.

Nothing is fetched: each score takes the folder of a model on this machine.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lens_multimodal.analysis import BertScore

Once = Callable[[str, Callable[[], Any]], Any]
"""`Context.once`: makes a model at its first use and keeps it."""


def bert_score(text: str, references: Sequence[str], model: str | None, *, once: Once) -> float | None:
    """Best BERTScore F1 (Zhang et al. 2020) of a text over some references; None without a model or a reference.

    Args: model: folder of a Hugging Face text encoder with its tokenizer.
    Raises: FileNotFoundError for a folder that is not there; ImportError without torchmetrics.
    """
    if model is None or not references:
        return None
    scorer: BertScore = once("bertscore", lambda: BertScore(model))
    return float(scorer(list(references), [text] * len(references)).max())


def clip_score(text: str, picture: Image.Image, model: str | None, *, once: Once) -> float | None:
    """CLIPScore (Hessel et al. 2021) of a text and a picture, 0 to 100; None without a model.

    Args: model: folder of a Hugging Face CLIP model with its processor.
    Raises: FileNotFoundError for a folder that is not there; ImportError without torchmetrics.
    """
    if model is None:
        return None
    metric = once("words.clipscore", lambda: _clip_metric(model))
    from torchvision.transforms.functional import pil_to_tensor

    return float(metric(pil_to_tensor(picture), text))


def _clip_metric(model: str) -> Any:
    from torchmetrics.multimodal import CLIPScore

    if not Path(model).is_dir():
        raise FileNotFoundError(f"no model at {model!r}: CLIPScore needs the folder of a Hugging Face CLIP model")
    return CLIPScore(model_name_or_path=model)  # type: ignore[arg-type]
