"""Whether the annotations of turned photos were made on the stored pixels or on the upright picture."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

from lens_multimodal.data.coco_entries import Picture
from lens_multimodal.image.orientation import UPRIGHT, Turn
from lens_multimodal.image.pictures import stored_form

ANNOTATED_ON = ("stored", "upright")
"""The pixels as the file stores them, or turned upright as its EXIF data ask."""


def turns_of(
    pictures: Mapping[int, Picture],
    images: Path,
    annotated_on: str | None,
    *,
    asked_for: Collection[int],
) -> dict[int, Turn]:
    """The turn from the annotated pixels of each picture to the upright ones.

    Args:
        images: the folder of the picture files; the header of each is read.
        annotated_on: for pictures whose sides do not show it; None follows the others, if they agree.
        asked_for: ids of pictures to warn about if they are in doubt.
    """
    turns = {number: UPRIGHT for number in pictures}
    doubtful: dict[int, Turn] = {}
    told: set[str] = set()
    for number, entry in pictures.items():
        form = stored_form(images / entry.file_name)
        if form is None or form.turn == UPRIGHT:
            continue
        stored, upright = (form.width, form.height), form.turn.sides(form.width, form.height)
        given = (entry.width, entry.height)
        if given == stored == upright:
            doubtful[number] = form.turn
        elif given == stored:
            turns[number] = form.turn
            told.add("stored")
        elif given == upright:
            told.add("upright")
    taken = annotated_on or (min(told) if len(told) == 1 else "stored")
    if taken == "stored":
        turns |= doubtful
    named = [pictures[number].file_name for number in doubtful if number in asked_for]
    if named and annotated_on is None:
        why = ", like those of the other turned pictures" if len(told) == 1 else ""
        warnings.warn(
            f"{len(named):,} pictures are turned by their EXIF data in a way that leaves their sides as they are, so "
            f"that nothing shows whether they were annotated before or after the turn: {', '.join(named[:5])}. The "
            f"annotations are taken as made on the {taken} pixels{why}; read_coco(..., annotated_on='stored' or "
            f"'upright') decides",
            stacklevel=3,
        )
    return turns
