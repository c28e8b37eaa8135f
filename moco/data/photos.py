"""Single images: read first, when only the size is needed, and decoded last, no larger than needed."""

from dataclasses import dataclass

from moco.data.decoding import check_size
from moco.data.images import Images
from moco.data.jpeg import decode_plain, read_plain_size
from moco.data.replacement import ChosenImages
from moco.errors import BadInputError
from moco.shapes import Image


@dataclass(frozen=True)
class Photo:
    """An image whose size is known: a plain JPEG still as it is, anything else decoded."""

    index: int
    size: tuple[int, int]
    """Height and width."""
    content: bytes
    """The file, to be decoded; empty where that is done."""
    image: Image | None


def read_photo(chosen: ChosenImages, row: int) -> Photo:
    """Read the image of a row, or the first of its stand-ins that can be read as far as its size.

    Raises BadInputError where none can be.
    """
    while True:
        try:
            return _read(chosen.images, int(chosen.index[row]))
        except BadInputError as error:
            chosen.replace(row, error)


def _read(images: Images, index: int) -> Photo:
    content = images.encoded(index) if images.form is None else None
    size = None if content is None else read_plain_size(content)
    if content is not None and size is not None:
        check_size(size[1], size[0], images.name(index))
        return Photo(index, size, content, None)
    image = images[index]
    return Photo(index, (image.shape[1], image.shape[2]), b"", image)


def decode_photo(images: Images, photo: Photo, shrink: int) -> tuple[Image, int]:
    """Decode the image, a plain JPEG at 1 / `shrink` of its size; return it and by how much it is smaller.

    Raises BadInputError where the header was sound and the pixels are not.
    """
    if photo.image is not None:
        return photo.image, 1
    image = decode_plain(photo.content, shrink)
    return (images[photo.index], 1) if image is None else (image, shrink)
