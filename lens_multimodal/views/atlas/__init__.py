"""An atlas of neurons as a site of static pages."""

from lens_multimodal.views.atlas.atlas_site import write_site

__all__ = ["write_site"]
