"""The pictures of a data set as the experiments use them: one split, filtered.

COCO 2017 is read as published, `annotations/` next to `val2017/`. Among several splits the validation split is used,
since neither the encoder nor LiMBeR's projection was trained on it (which split the paper used is not known here).
Regions annotated as crowds are left out, since they are not one object, and so are pictures without any object.
"""

from pathlib import Path

from lens_multimodal.data import CocoScenes, read_coco
from lens_multimodal.data.any_scenes import split_of


def scenes_of(folder: str | Path) -> CocoScenes:
    """The scenes of a folder in COCO's format, filtered.

    Args:
        folder: `instances.json`, `captions.json` and `images/`; or COCO as published; or the folder of one of its
            splits, such as `coco/train2017`.

    Raises:
        FileNotFoundError: annotation files or pictures are missing; they are listed.
        ValueError: no picture has an object; or as `read_coco`.
    """
    home, split = split_of(Path(folder).absolute())
    scenes = read_coco(home, split=split)
    kept = scenes.with_objects(crowds=False)
    if not len(kept):
        raise ValueError(f"none of the {len(scenes)} pictures of {str(folder)!r} has an object that is not a crowd")
    return kept
