"""Settings of the random views."""

from typing import Annotated, Literal

from tyro.conf import arg

from moco.runtime.fields import Share

AugmentName = Annotated[
    Literal["v1", "v2", "cifar", "mild"],
    arg(
        help="Random views: v1, v2 (with blur and weaker hue changes), cifar (without blur, with smaller crops), or "
        "mild (large crops with little colour change, for --teacher)."
    ),
]

FlipShare = Annotated[
    Share,
    arg(
        help="Share of the views that are mirrored; 0 where left and right differ, as in letters, digits, or clothes "
        "that all lie the same way."
    ),
]

QuarterTurns = Annotated[
    bool,
    arg(
        help="Turn each view by 0, 90, 180 or 270 degrees, for images without an upright direction (microscopy, aerial "
        "images)."
    ),
]
