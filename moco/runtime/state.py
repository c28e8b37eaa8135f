"""Everything that training changes, as named tensors and back: modules, optimiser, random state."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moco.runtime import distributed
from moco.shapes import require_same_shapes

MOMENTUM = "momentum_buffer"
RUNNING = ("running_mean", "running_var")
EACH_RANK = "ranks."
"""Prefix of the running statistics of every rank, (ranks, C): the one thing that differs between them."""


def state_tensors(modules: Mapping[str, nn.Module], optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """The tensors of the modules under their names, SGD's momenta under `sgd.NUMBER`, torch's CPU random state."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for number, parameter in enumerate(_parameters(optimizer)):
        momentum = optimizer.state[parameter].get(MOMENTUM)
        tensors[f"sgd.{number}"] = torch.zeros_like(parameter) if momentum is None else momentum
    tensors["random"] = torch.get_rng_state()
    return tensors


def rank_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The running statistics of every rank, under their names after `ranks.`; nothing where there is one rank."""
    if distributed.world_size() == 1:
        return {}
    return {
        f"{EACH_RANK}{name}.{key}": distributed.gather(value[None])
        for name, module in modules.items()
        for key, value in module.named_buffers()
        if key.endswith(RUNNING)
    }


def load_state_tensors(
    tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimizer: torch.optim.SGD, what: str
) -> None:
    """Put back what `state_tensors` gave, and this rank's running statistics where there are as many ranks as before.

    Raises BadInputError naming the first tensor that does not fit.
    """
    of_ranks = {name.removeprefix(EACH_RANK): value for name, value in tensors.items() if name.startswith(EACH_RANK)}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(EACH_RANK)}
    require_same_shapes(state_tensors(modules, optimizer), tensors, what)
    if all(len(value) == distributed.world_size() for value in of_ranks.values()):
        tensors |= {name: value[distributed.rank()] for name, value in of_ranks.items()}
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
    for number, parameter in enumerate(_parameters(optimizer)):
        momentum = torch.empty_like(parameter).copy_(tensors[f"sgd.{number}"])
        optimizer.state[parameter][MOMENTUM] = momentum
    torch.set_rng_state(tensors["random"])


def _parameters(optimizer: torch.optim.SGD) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
