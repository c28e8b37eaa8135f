"""The settings of `moco export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from moco.runtime.fields import JsonOutput, W

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
