"""Runs of image tokens, as processors write them, as parts of images."""

from collections.abc import Sequence

from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePart, Piece


def with_images(ids: Sequence[int], images: Sequence[EmbeddedImage], *, image_token_id: int) -> list[Piece]:
    """Token ids in which the k-th image token stands for the k-th vector of the images.

    Raises: ValueError for another number of image tokens than vectors.
    """
    n_places, n_vectors = list(ids).count(image_token_id), sum(map(len, images))
    if n_places != n_vectors:
        raise ValueError(f"the processor left room for {n_places} image vectors, and the images have {n_vectors}")
    pieces: list[Piece] = []
    upcoming = iter([(image, index) for image in images for index in range(len(image))])
    for token in ids:
        last = pieces[-1] if pieces else None
        if token != image_token_id:
            if isinstance(last, list):
                last.append(token)
            else:
                pieces.append([token])
            continue
        image, index = next(upcoming)
        if isinstance(last, ImagePart) and last.image is image and last.stop == index:
            pieces[-1] = ImagePart(image=image, first=last.first, stop=index + 1)
        else:
            pieces.append(ImagePart(image=image, first=index, stop=index + 1))
    return pieces
