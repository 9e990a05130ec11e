"""Fitting a projection on captioned pictures; everything else stays frozen (LiMBeR)."""

from lens_multimodal.train.batches import batches_of, batches_of_stream
from lens_multimodal.train.evaluation import captions_of
from lens_multimodal.train.fit import BatchesFrom, FitSettings, fit_projection
from lens_multimodal.train.initialisation import start_like_embeddings
from lens_multimodal.train.loss import CaptionBatch, token_losses

__all__ = [
    "BatchesFrom",
    "CaptionBatch",
    "FitSettings",
    "batches_of",
    "batches_of_stream",
    "captions_of",
    "fit_projection",
    "start_like_embeddings",
    "token_losses",
]
