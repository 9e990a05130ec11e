"""Captioned pictures and annotated scenes from disk: COCO's format, plain folders, WebDataset shards."""

from lens_multimodal.data.any_scenes import scenes_in
from lens_multimodal.data.captioned import CaptionedPicture, Damage, LeftOut
from lens_multimodal.data.coco import CocoScenes, Scene, SceneObject
from lens_multimodal.data.coco_reader import read_coco
from lens_multimodal.data.folders import read_folder
from lens_multimodal.data.plain_pictures import pictures_as_scenes
from lens_multimodal.data.webdataset import Shards, read_shards

__all__ = [
    "CaptionedPicture",
    "CocoScenes",
    "Damage",
    "LeftOut",
    "Scene",
    "SceneObject",
    "Shards",
    "pictures_as_scenes",
    "read_coco",
    "read_folder",
    "read_shards",
    "scenes_in",
]
