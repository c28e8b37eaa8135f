"""The tensors of the method and their shapes, as types (n images, c features, k keys); checked while testing."""

from collections.abc import Mapping

from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8
from torch import Tensor

from moco.errors import BadInputError

Views = Float[Tensor, "n bands h w"]
"""A batch of normalised views."""

Inputs = Shaped[Tensor, "n *_"]
"""A batch of whatever an encoder takes: views of images, or bytes of documents."""

Documents = UInt8[Tensor, "n *_"]
"""Spans of bytes (n, length), or documents of several spans each (n, spans, length); 0 is padding."""

Tokens = Float[Tensor, "n t c"]
"""The tokens of each span of a batch."""

Pixels = Float[Tensor, "n bands h w"]
"""A batch of images: RGB in [0, 1], or channels in their own units."""

Bytes = UInt8[Tensor, "n 3 h w"] | Float32[Tensor, "n _ h w"]
"""A batch of decoded images of one size: bytes of RGB, or channels in their own units."""

Channels = Float32[Tensor, "_ _ _"]
"""One decoded image of any number of channels, in their own units."""

Image = UInt8[Tensor, "3 _ _"] | Channels
"""One decoded image, as a rule bytes of RGB; those of a list may have different sizes."""

Rendered = Float[Tensor, "n bands s s"]
"""A batch of square views: RGB in [0, 1], or channels in their own units."""

SquareViews = Float[Tensor, "n bands s s"]
"""A batch of square views, normalised."""

Interleaved = Float[Tensor, "n s s 3"]
"""The same with the colours as the last dimension."""

Square = Float[Tensor, "bands s s"]
"""One view: RGB in [0, 1], or channels in their own units."""

Grey = Float[Tensor, "n 1 h w"]
"""A batch of images of one colour."""

Scalar = Float[Tensor, ""]
"""One number."""

PerImage = Float[Tensor, " n"]
"""One number for each image of a batch."""

PerImageFactor = Float[Tensor, "n 1 1 1"]
"""The same, to be multiplied with its pixels."""

ColourFactors = Float[Tensor, "n 4"]
"""Brightness, contrast, saturation and hue of each image of a batch."""

Windows = Float[Tensor, "n 4"]
"""Top, left, height and width of a crop of each image of a batch, in pixels."""

Drawn = Float[Tensor, "n columns *_"]
"""What was drawn for each view of a batch, as columns, perhaps followed by dimensions of 1."""

AnyPixels = Float[Tensor, "n 3 s s"] | UInt8[Tensor, "n 3 s s"]
"""A batch of square crops: values in [0, 1], or bytes."""

PerColour = Float[Tensor, "3 1 1"]
"""One number for each colour."""

LineMaps = Float[Tensor, "n out in"]
"""For each image, how a line of pixels becomes another."""

Features = Float[Tensor, "n c"]
"""One feature vector for each image of a batch."""

Negatives = Float[Tensor, "k c"]
"""Keys that every query of a batch is compared with."""

Bank = Float[Tensor, "b c"]
"""Features that queries are compared with in evaluations."""

ExtraNegatives = Float[Tensor, "n s c"]
"""Further keys of each query's own."""

Mask = Bool[Tensor, "n k"]
"""True where a key must not count as a negative of that query."""

Logits = Float[Tensor, "n m"]
"""The similarities of each query of a batch with m keys."""

Index = Int[Tensor, " n"]
"""The integers that name the images of a batch."""

Classes = Int[Tensor, " images"]
"""The class of each image of a set."""


def require_same_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Raise BadInputError naming the first tensor that is missing, unexpected or of another shape."""
    for name in sorted(expected.keys() | found.keys()):
        wanted = tuple(expected[name].shape) if name in expected else "nothing"
        given = tuple(found[name].shape) if name in found else "nothing"
        if wanted != given:
            raise BadInputError(f"{what}: {name} expected {wanted}, found {given}")
