"""An atlas of neurons: what every neuron of a language model responds to over the pictures of a data set."""

from lens_multimodal.atlas.atlas_estimate import estimate_atlas
from lens_multimodal.atlas.atlas_reading import Atlas, AtlasEntry, DrivingPicture
from lens_multimodal.atlas.atlas_run import build_atlas
from lens_multimodal.atlas.atlas_settings import AtlasSettings

__all__ = ["Atlas", "AtlasEntry", "AtlasSettings", "DrivingPicture", "build_atlas", "estimate_atlas"]
