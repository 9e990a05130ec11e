"""Token ids that a vision-language model's processor wrote, with images in the places that it left for them."""

from collections.abc import Sequence

from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePart, Piece


def with_images(ids: Sequence[int], images: Sequence[EmbeddedImage], *, image_token_id: int, model: str) -> list[Piece]:
    """Token ids with the runs of the image token replaced by images, in order.

    Args: model: its name, for the error.
    Raises: ValueError if the number of places differs from the number of vectors.
    """
    n_places, n_vectors = list(ids).count(image_token_id), sum(map(len, images))
    if n_places != n_vectors:
        raise ValueError(
            f"the processor of {model} left room for {n_places} image vectors, but the images of this row have "
            f"{n_vectors}: they were embedded for another model, or one by one, although {model} reads several "
            f"pictures in one prompt differently; pass the pictures themselves"
        )
    pieces: list[Piece] = []
    upcoming = iter([(image, index) for image in images for index in range(len(image))])
    for token in ids:
        if token != image_token_id:
            if not pieces or not isinstance(pieces[-1], list):
                pieces.append([])
            pieces[-1].append(token)  # type: ignore[union-attr]
            continue
        image, index = next(upcoming)
        last = pieces[-1] if pieces else None
        if isinstance(last, ImagePart) and last.image is image and last.stop == index:
            pieces[-1] = ImagePart(image=image, first=last.first, stop=index + 1)
        else:
            pieces.append(ImagePart(image=image, first=index, stop=index + 1))
    return pieces
