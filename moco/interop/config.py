"""The settings of `moco export` and `moco join`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from moco.data.config import Excluded, MostPixels
from moco.runtime.fields import (
    D,
    Device,
    JsonOutput,
    KnnTemperature,
    Precision,
    Range,
    Side,
    Threads,
    W,
    Workers,
)

Format = Literal["torchvision", "timm", "detectron2", "onnx", "safetensors", "reference"]


@dataclass(frozen=True)
class ExportConfig:
    """Convert an encoder for another library, and check that its features are the same there."""

    weights: Annotated[str, W]
    """A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint, timm:NAME,
    timm:NAME@FILE or torchvision:NAME (published weights), or hf://OWNER/NAME (a repository of huggingface.co)."""
    format: Format
    """torchvision and timm: a state dict, without classifier; detectron2: a .pkl; onnx: a network from images to
    pooled features, for any batch size; safetensors: a folder in the Hugging Face layout with a model card; reference:
    the MoCo authors' .pth.tar. Only onnx keeps the whitening of a run's features; the others hold the backbone."""
    out: Path
    """New file to write, or for safetensors a new folder."""
    push: str | None = None
    """OWNER/NAME: a repository on huggingface.co that the export is also sent to. If it does not exist, it is created
    as a private one."""
    json: JsonOutput = False


@dataclass(frozen=True)
class JoinConfig:
    """Join encoders, such as a run and published weights, into one that has the features of all."""

    weights: Annotated[tuple[str, ...], arg(metavar="W W...")]
    """Two to eight encoders: runs, checkpoints or published weights, such as runs/mine timm:tf_efficientnet_lite0."""
    data: Annotated[str, D]
    """Images on which the whitening of the features is chosen: a folder, or any other form that moco pretrain takes.
    With labels, the command also says whether joining pays."""
    out: Path
    """New file to write: an encoder.safetensors, which evaluations and other commands take as weights."""
    image_sizes: tuple[Side, ...] = ()
    """Side of the images in pixels for each encoder, in the order of --weights; by default as in training."""
    images: Annotated[int, Range(1, 2**24)] = 4096
    """Use at most this many training images."""
    knn_temperature: KnnTemperature = 0.1
    precision: Precision = "auto"
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    exclude: Excluded = ()
    most_pixels: MostPixels = None
    json: JsonOutput = False
