"""Everything that training changes, as named tensors and back: modules, optimiser, random state."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from moco.runtime import distributed
from moco.runtime.scaling import load_scaler_tensors, scaler_tensors
from moco.shapes import require_same_shapes

MOMENTUM = "momentum_buffer"
CUDA_RANDOM = "random.cuda"
"""The random state of the GPU that computes; checkpoints from before it was saved lack it."""
ADAMW = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of a parameter: running means of its gradient and of the square, and the number of steps."""
EACH_RANK = "ranks."
"""Prefix of the running statistics of every rank, (ranks, C)."""


def state_tensors(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, scaler: GradScaler
) -> dict[str, Tensor]:
    """Return the tensors of the modules under their names, the optimiser's, the loss scale and the random state.

    SGD's momenta are `sgd.NUMBER`, what AdamW keeps is `adamw.NUMBER.NAME`; zeros before the first step.
    """
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for name, parameter, key in _slots(optimizer):
        kept = optimizer.state[parameter].get(key)
        empty = torch.zeros((), dtype=torch.float32) if key == "step" else torch.zeros_like(parameter)
        tensors[name] = empty if kept is None else kept
    tensors |= scaler_tensors(scaler)
    tensors["random"] = torch.get_rng_state()
    if _on_gpu(modules):
        tensors[CUDA_RANDOM] = torch.cuda.get_rng_state()
    return tensors


def _on_gpu(modules: Mapping[str, nn.Module]) -> bool:
    return any(value.is_cuda for module in modules.values() for value in module.parameters())


def rank_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Gather what the first rank needs from the others; empty for one rank. All ranks call it together.

    These are the running statistics of every rank, under their names after `ranks.`, and under its own name the whole
    of what is cut over the ranks (empty on all but the first), which takes the place of the first rank's share.
    """
    if distributed.world_size() == 1:
        return {}
    statistics = {
        f"{EACH_RANK}{name}.{key}": distributed.gather(value[None])
        for name, module in modules.items()
        for key, value in module.named_buffers()
        if key.endswith(distributed.RUNNING)
    }
    return statistics | {name: distributed.collect(own, count) for name, own, count in _sharded(modules)}


def _sharded(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor, int]]:
    """The buffers that modules say, by `sharded`, to be cut over the ranks: name, this rank's rows, rows in all."""
    for name, module in modules.items():
        for key, count in getattr(module, "sharded", {}).items():
            yield f"{name}.{key}", module.get_buffer(key), count


def withhold(tensors: dict[str, Tensor], modules: Mapping[str, nn.Module], what: str) -> dict[str, Tensor]:
    """Take out of a checkpoint the whole of what is cut over the ranks, which is too large to be given to all of them.

    Raises BadInputError where it does not fit.
    """
    whole = {}
    for name, own, count in _sharded(modules):
        found = {name: tensors[name]} if name in tensors else {}
        require_same_shapes({name: own.new_empty(count, *own.shape[1:], device="meta")}, found, what)
        whole[name] = tensors.pop(name)
    return whole


def load_state_tensors(
    tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer,
    scaler: GradScaler, what: str,
) -> None:  # fmt: skip
    """Put back what `state_tensors` gave.

    Only the first rank has the whole of what is cut over the ranks; each gets its share. The running statistics are
    this rank's own where there are as many ranks as before, else their mean.

    Raises BadInputError naming the first tensor that does not fit.
    """
    of_ranks = {name.removeprefix(EACH_RANK): value for name, value in tensors.items() if name.startswith(EACH_RANK)}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(EACH_RANK)}
    sharded = {name: (own, count) for name, own, count in _sharded(modules)}
    whole = {name: tensors.pop(name) for name in sharded if name in tensors}
    of_gpu = tensors.pop(CUDA_RANDOM, None)
    own_state = state_tensors(modules, optimizer, scaler)
    expected = {name: value for name, value in own_state.items() if name not in {*sharded, CUDA_RANDOM}}
    require_same_shapes(expected, tensors, what)
    for name, (own, count) in sharded.items():
        distributed.deal(whole.get(name), own, count)
        tensors[name] = own
    if all(len(value) == distributed.world_size() for value in of_ranks.values()):
        tensors |= {name: value[distributed.rank()] for name, value in of_ranks.items()}
    for name, module in modules.items():
        state = module.state_dict()  # with the versions of its modules, which some refuse to be loaded without
        state.update({key: tensors[f"{name}.{key}"] for key in state})
        module.load_state_dict(state)
    for name, parameter, key in _slots(optimizer):
        like = torch.empty((), device=parameter.device) if key == "step" else torch.empty_like(parameter)
        optimizer.state[parameter][key] = like.copy_(tensors[name])
    load_scaler_tensors(scaler, tensors)
    torch.set_rng_state(tensors["random"])
    if of_gpu is not None and _on_gpu(modules):
        torch.cuda.set_rng_state(of_gpu)


def _slots(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Each tensor that the optimiser keeps: its name in a checkpoint, its parameter and its name there."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for number, parameter in enumerate(parameters):
        if isinstance(optimizer, torch.optim.AdamW):
            yield from ((f"adamw.{number}.{key}", parameter, key) for key in ADAMW)
        else:
            yield f"sgd.{number}", parameter, MOMENTUM
