"""Loss scaling for fp16, in which gradients below 6e-8 vanish and numbers above 65504 overflow."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import get_total_norm

from moco.runtime.fields import Precision

FIRST_SCALE = 2.0**16
"""It is doubled after 2000 steps without an overflow, and halved after each overflow."""
LEAST_SCALE = 1.0
"""A gradient that overflows at this scale does so by itself."""


def build_scaler(precision: Precision, device: str) -> GradScaler:
    """Build what multiplies the loss before its gradient is taken, and divides the gradient; it only acts in fp16."""
    return GradScaler(device, init_scale=FIRST_SCALE, enabled=precision == "fp16")


IDLE = build_scaler("fp32", "cpu")
"""A scaler that does nothing."""


def overflows(scaler: GradScaler, gradient_norm: Tensor) -> bool:
    """Tell whether a gradient overflowed only because of its scale: the step is then left out and the scale halved."""
    return scaler.is_enabled() and not bool(gradient_norm.isfinite()) and scaler.get_scale() > LEAST_SCALE


def measure_norm(
    scaler: GradScaler, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]
) -> tuple[Tensor, bool]:
    """Divide the gradient by its scale; return its norm, and whether it overflowed. Only in fp16 the host waits."""
    scaler.unscale_(optimizer)
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm, overflows(scaler, norm)


def measure_gradient(
    scaler: GradScaler, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], *losses: Tensor
) -> tuple[Tensor, bool, bool]:
    """Divide the gradient by its scale; return its norm, whether it overflowed, and whether the step is sound.

    It is unsound where a loss is not finite, or a gradient that did not overflow only because of its scale.
    """
    norm, overflowed = measure_norm(scaler, optimizer, parameters)
    return norm, overflowed, is_finite(*losses) if overflowed else is_finite(norm, *losses)


def step_unless(overflowed: bool, scaler: GradScaler, take: Callable[[], object]) -> None:
    """Take the optimiser's step, or leave it out where the gradient overflowed; then adjust the scale."""
    if not overflowed:
        take()
    scaler.update()


def is_finite(first: Tensor, *others: Tensor) -> bool:
    """Return whether losses and the norm of the gradient are numbers."""
    return bool(torch.isfinite(sum((other.detach() for other in others), first.detach())))


def scaler_tensors(scaler: GradScaler) -> dict[str, Tensor]:
    """Return the scale and the steps since it last changed, as `scaler.NAME`; empty where it does not act."""
    if not scaler.is_enabled():
        return {}
    state = scaler.state_dict()
    return {
        "scaler.scale": torch.tensor(state["scale"], dtype=torch.float64),
        "scaler.steps": torch.tensor(state["_growth_tracker"]),
    }


def load_scaler_tensors(scaler: GradScaler, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `scaler_tensors` gave."""
    if scaler.is_enabled():
        state = {"scale": float(tensors["scaler.scale"]), "_growth_tracker": int(tensors["scaler.steps"])}
        scaler.load_state_dict(scaler.state_dict() | state)
