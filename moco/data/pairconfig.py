"""Settings of the pairs."""

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
        help="What query and key are. views: two random views of an image; masked: the same, with patches of the query "
        "hidden; neighbours: views of two frames of one folder; paired: views of two files of the same name, in --data "
        "and --partner; text: two spans of a document, for --arch bytes-ngrams, bytes-tiny or bytes-small; "
        "FILE.py:FUNCTION: the pairs that your own function returns for (item, draw); it runs with your permissions."
    ),
]
OwnPretextAgain = Annotated[
    str | None,
    arg(
        help="The same FILE.py:FUNCTION as before, if your own code makes the run's pairs of query and key; the file "
        "must be unchanged."
    ),
]
Within = Annotated[Count, arg(help="Largest distance in frames between query and key, with --pretext neighbours.")]
SeriesList = Annotated[
    str | None,
    arg(
        metavar="FILE",
        help="List of series for --pretext neighbours, in place of folders: on each line two or more images of --data "
        "that belong together, in their order, with tabs between them.",
    ),
]
HiddenShare = Annotated[Share, arg(help="Share of the query's patches that --pretext masked sets to the mean.")]
PatchSide = Annotated[Side, arg(help="Side of the patches of --pretext masked, in pixels.")]
PartnerData = Annotated[
    str | None, arg(help="Images for the keys of --pretext paired, with the same names as those of --data.")
]
