"""BERTScore and CLIPScore, from local model folders; None without a model.

Nothing is downloaded.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from lens_multimodal.analysis import BertScore
from lens_multimodal.analysis.effects.similarity import model_folder
from lens_multimodal.experiments.shared.once import Once


def bert_score(text: str, references: Sequence[str], model: str | None, *, once: Once) -> float | None:
    """The best BERTScore F1 (Zhang et al. 2020) of a text over its references; None without a model or a reference.

    Args: model: folder of a Hugging Face text encoder with its tokenizer.
    Raises: FileNotFoundError for a folder that is not there; ImportError without torchmetrics.
    """
    if model is None or not references:
        return None
    scorer: BertScore = once("bertscore", lambda: BertScore(model))
    return float(scorer(list(references), [text] * len(references)).max())


def clip_score(text: str, picture: Image.Image, model: str | None, *, once: Once) -> float | None:
    """CLIPScore (Hessel et al. 2021) of a text and a picture: 100 times their cosine, at least 0; None without a model.

    Texts are truncated to the model's maximum length. Computed with transformers: torchmetrics takes no model folders.

    Args: model: folder of a Hugging Face CLIP model with its processor.
    Raises: FileNotFoundError for a folder that is not there.
    """
    if model is None:
        return None
    clip, processor = once("clipscore", lambda: _clip(model))
    longest = clip.config.text_config.max_position_embeddings
    given = processor(text=[text], images=[picture], return_tensors="pt", truncation=True, max_length=longest)
    with torch.no_grad():
        found = clip(**given)
    return max(0.0, 100 * float(torch.cosine_similarity(found.image_embeds, found.text_embeds)[0]))


def _clip(model: str) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    folder = model_folder(model, "CLIP")
    loaded = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    return loaded, CLIPProcessor.from_pretrained(folder, local_files_only=True)
