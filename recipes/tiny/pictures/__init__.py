"""Cut-outs with alpha from drawing packages: rendered, labelled, reviewed, split before anything is trained."""

from recipes.tiny.pictures.stage import run

__all__ = ["run"]
