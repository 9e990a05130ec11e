"""BERTScore and CLIPScore through torchmetrics, for those who have the models; None for those who have not.

Nothing is fetched: each score takes the folder of a model on this machine.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

Once = Callable[[str, Callable[[], Any]], Any]
"""`Context.once`: makes a model at its first use and keeps it."""


def bert_score(text: str, references: Sequence[str], model: str | None, *, once: Once) -> float | None:
    """Best BERTScore F1 (Zhang et al. 2020) of a text over some references; None without a model or a reference.

    Args: model: folder of a Hugging Face text encoder with its tokenizer; its last layer is compared.
    Raises: FileNotFoundError for a folder that is not there; ImportError without torchmetrics.
    """
    if model is None or not references:
        return None
    encoder, tokenizer = once("words.bertscore", lambda: _text_encoder(model))
    from torchmetrics.functional.text import bert_score as score

    found = score(
        [text] * len(references),
        list(references),
        model=encoder,
        user_tokenizer=tokenizer,
        num_layers=None,
        verbose=False,
        user_forward_fn=_last_layer,
    )
    return float(torch.as_tensor(found["f1"]).max())


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


def _text_encoder(model: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    _need(model)
    encoder = AutoModel.from_pretrained(model, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    return encoder, lambda texts, length: tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )


def _last_layer(encoder: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state


def _clip_metric(model: str) -> Any:
    from torchmetrics.multimodal import CLIPScore

    _need(model)
    return CLIPScore(model_name_or_path=model)  # type: ignore[arg-type]


def _need(model: str) -> None:
    if not Path(model).is_dir():
        raise FileNotFoundError(f"no model at {model!r}: this score needs the folder of a Hugging Face model")
