"""Settings of what is paired."""

from typing import Annotated

from tyro.conf import arg

from moco.runtime.fields import Count, Share, Side
from moco.runtime.owncode import NamesCode

PRETEXTS = ("views", "masked", "neighbours", "paired", "text")
"""What may be paired, beside what a user's own function pairs."""
PretextName = Annotated[
    str,
    NamesCode(PRETEXTS),
    arg(
        help="What query and key are: views, two random views of an image; masked, these with patches of the query "
        "hidden; neighbours, views of two frames of one folder; paired, views of two files of one name, in --data and "
        "--partner; text, two spans of a document, for bytes-tiny and bytes-small; or FILE.py:FUNCTION, the pairs that "
        "this function of your own makes, which is run with your rights (docs/pretexts.md)."
    ),
]
OwnPretextAgain = Annotated[
    str | None,
    arg(help="FILE.py:FUNCTION, again, where the run's pairs come from code of your own: it must be the same."),
]
Within = Annotated[Count, arg(help="T: frames between query and key, at most, with --pretext neighbours.")]
HiddenShare = Annotated[Share, arg(help="Share of the query's patches that --pretext masked sets to the mean.")]
PatchSide = Annotated[Side, arg(help="Side in pixels of these patches.")]
PartnerData = Annotated[
    str | None, arg(help="Images of the same names as those of --data, for --pretext paired: the keys' images.")
]
