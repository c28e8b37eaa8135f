"""Settings that concern images alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg

from moco.runtime.fields import D, JsonOutput, Range, Side

Excluded = Annotated[
    tuple[str, ...],
    UseAppendAction,
    arg(
        metavar="GLOB",
        help="Leave out files and folders of --data with this name (masks, '*_mask.png') or this path below it "
        "('*/test/*').",
    ),
]

WhiteLevel = Annotated[
    Annotated[int, Range(1, 65535)] | None,
    arg(
        help="Value of 16-bit grey files that becomes white (65535: their full range); by default that stored with "
        "the weights, if the command reads weights, otherwise the range that the images use."
    ),
]

MostPixels = Annotated[
    Annotated[int, Range(1, 10**11)] | None,
    arg(
        help="Largest number of pixels of an image; larger ones count as unreadable. By default "
        "MOCO_MOST_PIXELS in the environment, otherwise 178956970."
    ),
]

ChannelCount = Annotated[
    str,
    arg(
        metavar="auto|rgb|N",
        help="Channels of the images. auto: RGB for files of 8 bits of grey or colour, otherwise the files' channels "
        "at full depth. rgb: 8 bits of red, green and blue, whatever the files have. N: N channels (1 to 64) at full "
        "depth.",
    ),
]

Bands = Annotated[
    tuple[str, ...],
    arg(
        metavar="ENDING",
        help="File endings of the bands of an image, one file per channel, in the order of the channels: for example "
        "_B02.tif _B03.tif.",
    ),
]

NoData = Annotated[
    str | None,
    arg(
        metavar="NUMBER|nan",
        help="Pixel value that means missing data; it becomes its channel's mean. By default the value in the files' "
        "tags.",
    ),
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PackConfig:
    """Pack images into arrays, which load faster than small files, or shards, for disks that open files slowly."""

    data: Annotated[str, D]
    """Images, in any form that moco pretrain quick --help lists; all splits are packed, in their order."""
    out: Path
    """New folder for the pack; give it to other commands as --data."""
    format: Literal["auto", "arrays", "shards"] = "auto"
    """arrays: decoded pixels, for small images of one size; shards: the original files in tar files in WebDataset
    layout (a TIFF of all bands where --bands names several files); auto: arrays if all images have one size of at most
    96 pixels, otherwise shards."""
    image_size: Side | None = None
    """For arrays: side of the images in pixels. The shorter side is scaled to it, and the centre is cropped."""
    shard_bytes: Annotated[int, Range(1, 2**40)] = 1 << 28
    """Size in bytes at which a new shard begins."""
    exclude: Excluded = ()
    white_level: WhiteLevel = None
    most_pixels: MostPixels = None
    channels: ChannelCount = "auto"
    bands: Bands = ()
    no_data: NoData = None
    json: JsonOutput = False


@dataclass(frozen=True)
class CheckConfig:
    """Read every image of a set, without training, and list those that cannot be read."""

    data: Annotated[str, D]
    """Images, in any form that moco pretrain quick --help lists; all splits are read."""
    out: Path | None = None
    """File to write the list to, as CSV: split, path, reason."""
    exclude: Excluded = ()
    most_pixels: MostPixels = None
    channels: ChannelCount = "auto"
    bands: Bands = ()
    no_data: NoData = None
    workers: Annotated[
        Annotated[int, Range(1, 512)] | None, arg(help="Threads that read; by default one per core.")
    ] = None
    json: JsonOutput = False
