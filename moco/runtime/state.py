"""Everything that training changes, as named tensors and back: modules, optimiser, random state."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moco.shapes import require_same_shapes

MOMENTUM = "momentum_buffer"


def state_tensors(modules: Mapping[str, nn.Module], optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """The tensors of the modules under their names, SGD's momenta under `sgd.NUMBER`, torch's CPU random state."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for number, parameter in enumerate(_parameters(optimizer)):
        momentum = optimizer.state[parameter].get(MOMENTUM)
        tensors[f"sgd.{number}"] = torch.zeros_like(parameter) if momentum is None else momentum
    tensors["random"] = torch.get_rng_state()
    return tensors


def load_state_tensors(
    tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimizer: torch.optim.SGD, what: str
) -> None:
    """Put back what `state_tensors` gave. Raises BadInputError naming the first tensor that does not fit."""
    require_same_shapes(state_tensors(modules, optimizer), tensors, what)
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
