"""Activations of a whole data set on disk: written once, read by picture, by image patch or at random."""

from lens_multimodal.runs.plan import Estimate
from lens_multimodal.store.reading import Activations, StoredRows
from lens_multimodal.store.store_estimate import estimate_activations
from lens_multimodal.store.store_settings import StoreSettings
from lens_multimodal.store.writing import write_activations

__all__ = ["Activations", "Estimate", "StoreSettings", "StoredRows", "estimate_activations", "write_activations"]
