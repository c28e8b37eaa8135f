"""An encoder as the MoCo authors' own checkpoint: tensors and numbers under their names, no classes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from moco.core.encoder import encoder_tensors
from moco.interop.checkpoints import Weights

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def build_reference_checkpoint(weights: Weights) -> dict[str, Any]:
    """Build what the authors' `main_moco.py` saves, with f_k and the queue where the weights came with them.

    The optimiser's part holds no momenta: SGD starts with none. The epoch is 0, since `weights` count steps.
    """
    state = _named(encoder_tensors(weights.encoder), "module.encoder_q.")
    checkpoint: dict[str, Any] = {"epoch": 0, "arch": weights.encoder.plan.arch, "state_dict": state}
    if weights.momentum is not None and weights.queue is not None:
        state |= _named(weights.momentum, "module.encoder_k.")
        state["module.queue"] = weights.queue.T.contiguous()
        state["module.queue_ptr"] = torch.tensor([weights.pointer])
        parameters = [name for name in state if "encoder" in name and not name.endswith(BUFFERS)]
        group = {"lr": 0.03, "momentum": 0.9, "dampening": 0, "weight_decay": 1e-4, "nesterov": False}
        checkpoint["optimizer"] = {"state": {}, "param_groups": [{**group, "params": list(range(len(parameters)))}]}
    return checkpoint


def describe_checkpoint(weights: Weights) -> str:
    """Describe what the authors' scripts can do with the file."""
    if weights.momentum is None or weights.queue is None:
        return (
            "f_q only, for main_lincls.py and the conversion to detectron2: give one of the run's checkpoints to have "
            "f_k and the queue too"
        )
    return "f_q, f_k and the queue, for main_lincls.py and main_moco.py --resume (epoch 0, no momenta of SGD)"


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Under the names of the authors' modules: the projection head is their fc."""
    renamed = {f"fc.{n.removeprefix('head.')}" if n.startswith("head.") else n: value for n, value in tensors.items()}
    return {prefix + name: value.detach().cpu().contiguous() for name, value in renamed.items()}
