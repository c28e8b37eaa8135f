"""An encoder for detectron2: a .pkl with its names of a ResNet's tensors, as the MoCo authors' conversion writes it."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import dumps

import numpy as np
import numpy.typing as npt
from torch import Tensor

from moco.core.encoder import encoder_tensors
from moco.core.resnet import RESNETS, resnet_plan
from moco.interop.checkpoints import Weights
from moco.runtime.files import replace_file

STEM = ("conv1.", "bn1.")


def detectron2_name(name: str) -> str:
    """Rename a torchvision tensor for detectron2: layer1 is res2, bn1 conv1's norm, downsample the shortcut."""
    name = f"stem.{name}" if name.startswith(STEM) else name
    name = re.sub(r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"\bbn([1-3])\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def convert_tensors(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Convert the backbone's tensors to arrays under detectron2's names."""
    return {
        detectron2_name(name): value.detach().cpu().contiguous().numpy()
        for name, value in tensors.items()
        if not name.startswith("head.")
    }


def write_pickle(weights: Weights, path: Path, _: str) -> None:
    """Write the .pkl; a pickle, since that is what detectron2 reads. It holds arrays and text only."""
    model = convert_tensors(encoder_tensors(weights.encoder))
    replace_file(path, dumps({"model": model, "__author__": "MOCO", "matching_heuristics": True}))


def describe_settings(weights: Weights) -> str:
    """Describe the detectron2 config that builds this net and feeds it the right images."""
    plan = resnet_plan(weights.encoder.plan.arch)
    assert plan is not None
    alike = (name for name, known in RESNETS.items() if (known.block, known.layers) == (plan.block, plan.layers))
    depth = next(alike).removeprefix("resnet")  # the plain one comes first
    values = {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": plan.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": plan.width_per_group * plan.width // 64,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": plan.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": plan.width * plan.block.expansion,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [round(255 * value, 3) for value in weights.mean],
        "MODEL.PIXEL_STD": [round(255 * value, 3) for value in weights.std],
    }
    return "; ".join(f"{name} {value}" for name, value in values.items())
