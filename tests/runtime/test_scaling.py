"""The scale of a loss in fp16 does what torch's own loop does with it, and is saved and restored."""

import torch
from torch.amp import GradScaler

from moco.runtime.scaling import IDLE, LEAST_SCALE, build_scaler, load_scaler_tensors, overflows, scaler_tensors


def steps(scaler: GradScaler, count: int, *, ours: bool) -> torch.Tensor:
    """Train two weights, of which the gradient overflows in fp16 at first, by our way or by `GradScaler.step`.

    The latter leaves a fused optimiser's momentum uninitialised where its first step overflows.
    """
    weight = torch.nn.Parameter(torch.tensor([0.5, 1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=ours)
    for _ in range(count):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = torch.nn.functional.linear(torch.tensor([[30.0, 2.0]]), weight[None]).float().mean()
        torch.autograd.backward(scaler.scale(loss))
        scaler.unscale_(optimizer)
        assert weight.grad is not None
        if not ours:
            scaler.step(optimizer)
        elif not overflows(scaler, weight.grad.norm()):
            optimizer.step()
        scaler.update()
        optimizer.zero_grad()
    return weight.detach()


def test_steps_are_those_of_torch() -> None:
    """The same weights and the same scale, over steps that overflow and steps that do not."""
    ours, theirs = build_scaler("fp16", "cpu"), GradScaler("cpu")
    torch.testing.assert_close(steps(ours, 12, ours=True), steps(theirs, 12, ours=False))
    assert ours.get_scale() == theirs.get_scale() < 2.0**16


def test_it_is_saved_and_restored() -> None:
    """The scale, and how long it has stood; one that does not act has neither."""
    scaler, restored = build_scaler("fp16", "cpu"), build_scaler("fp16", "cpu")
    steps(scaler, 9, ours=True)
    load_scaler_tensors(restored, scaler_tensors(scaler))
    assert restored.state_dict() == scaler.state_dict()
    assert scaler.state_dict()["_growth_tracker"] > 0
    assert scaler_tensors(IDLE) == {}
    load_scaler_tensors(IDLE, {})


def test_a_gradient_that_overflows_by_itself_is_no_overflow_of_the_scale() -> None:
    """At scale 1 the run has diverged; in another precision always."""
    scaler, infinite = build_scaler("fp16", "cpu"), torch.tensor(float("inf"))
    steps(scaler, 1, ours=True)
    assert overflows(scaler, infinite)
    assert not overflows(scaler, torch.tensor(3.0))
    assert not overflows(IDLE, infinite)
    scaler.update(LEAST_SCALE)
    assert not overflows(scaler, infinite)
