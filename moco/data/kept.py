"""A set of images that are prepared once and then stay in memory, for what encodes the same images again and again."""

from collections.abc import Callable, Mapping

from moco.data.channels import Values
from moco.data.forms import Form
from moco.data.images import Images, Marks, PathTable
from moco.runtime.randomness import Integers
from moco.runtime.transfers import free_memory
from moco.shapes import Bytes, Image, Square

Make = Callable[[Image, int], Square]
KEPT_BYTES = 1 << 30
"""Memory that the prepared images of a set may take."""


class KeptImages:
    """A set that keeps processed images until `limit` bytes are full, and processes later ones each time.

    A monitor goes through its images in the same order at each look, so whatever was kept first is the best to keep.
    """

    def __init__(self, images: Images, limit: int = KEPT_BYTES) -> None:
        self.images, self.labels, self.classes, self._left = images, images.labels, images.classes, limit
        self._squares = dict[tuple[int, int, Make], Square]()
        self._on_device = dict[tuple[range, int, Make, str], Bytes]()
        self._taken = 0

    def prepare(self, index: int, size: int, make: Make) -> Square:
        """Return `make(image, size)`, made now or earlier; callers must not write into it."""
        square = self._squares.get((index, size, make))
        if square is None:
            square = make(self.images[index], size)
            if square.nbytes <= self._left:
                square = square.clone()  # alone in its memory: a view would keep a whole photograph
                self._squares[index, size, make] = square
                self._left -= square.nbytes
        return square

    def on_device(self, rows: range, size: int, make: Make, device: str) -> Bytes | None:
        """Return what was kept of these rows, made so, on a device."""
        return self._on_device.get((rows, size, make, device))

    def keep_on_device(self, rows: range, size: int, make: Make, device: str, squares: Bytes) -> None:
        """Keep prepared images where they are: on a GPU up to a quarter of what is free without them, else `limit`.

        They are bytes, a quarter of what `prepare` keeps.
        """
        free = free_memory(device)
        if squares.nbytes <= (self._left if free is None else (free + self._taken) // 4 - self._taken):
            self._on_device[rows, size, make, device] = squares
            self._taken += squares.nbytes
            self._left -= squares.nbytes if free is None else 0

    @property
    def in_memory(self) -> bool:
        """Return whether the decoded images are in memory."""
        return self.images.in_memory

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Return the set's unreadable images."""
        return self.images.unreadable

    @property
    def root(self) -> bytes | None:
        """Return the set's root."""
        return self.images.root

    @property
    def name_table(self) -> PathTable | None:
        """Return the set's table of names."""
        return self.images.name_table

    @property
    def form(self) -> Form | None:
        """Return the set's form."""
        return self.images.form

    @property
    def white_level(self) -> int | None:
        """Return the set's white level."""
        return self.images.white_level

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        return self.images[index]

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.images.name(index)

    def encoded(self, index: int) -> bytes | None:
        """Return the file of an image, if it has one."""
        return self.images.encoded(index)

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Read the channels of an image's file."""
        return self.images.read_values(index, channels)

    def stack(self, index: Integers) -> Bytes | None:
        """Take the images of `index` as one tensor, where they are in memory."""
        return self.images.stack(index)

    def with_white_level(self, level: int) -> "KeptImages":
        """Return the same of a set with another white level."""
        return KeptImages(self.images.with_white_level(level), self._left)

    def with_form(self, form: Form) -> "KeptImages":
        """Return the same with files read as channels."""
        return KeptImages(self.images.with_form(form), self._left)

    def identify(self, index: Integers) -> Marks:
        """Return the marks of the images."""
        return self.images.identify(index)


def keep_prepared(images: Images) -> Images:
    """Keep the prepared images of a set; a set that is in memory stays as it is."""
    return images if images.in_memory else KeptImages(images)


def find_kept(images: Images) -> KeptImages | None:
    """Return the set where it keeps what was prepared, else None."""
    return images if isinstance(images, KeptImages) else None


def prepare_one(images: Images, index: int, size: int, make: Make) -> Square:
    """Return `make(image, size)` of one image, from memory where the set has kept it."""
    return images.prepare(index, size, make) if isinstance(images, KeptImages) else make(images[index], size)
