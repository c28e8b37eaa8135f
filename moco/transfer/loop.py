"""THE loop of transfer: an encoder, a task's model on it, annotated images -> figures (v1, 4.2)."""

from typing import Any

import torch
from torch import nn

from moco.data.ahead import watch_loading
from moco.interop.checkpoints import Weights
from moco.runtime import distributed
from moco.runtime.device import autocast
from moco.runtime.randomness import Stream, seed_of
from moco.runtime.recent import Recent
from moco.runtime.run import Run, open_run
from moco.runtime.scaling import measure_gradient, step_unless
from moco.runtime.schedule import Schedule, is_due
from moco.runtime.signals import StopRequest
from moco.transfer.batches import TrainingBatches, move_batch
from moco.transfer.config import TransferConfig
from moco.transfer.evaluator import Evaluator
from moco.transfer.examples import Examples
from moco.transfer.models import build_model, build_transfer_optimizer, build_transfer_schedule, describe_transfer


def fine_tune(
    config: TransferConfig, weights: Weights, train: Examples, test: Examples, request: StopRequest
) -> dict[str, Any]:
    """Train a task's model on a copy of the encoder, all layers of it, and return what it reaches on the test images.

    Goes on where a run of the same config lies in `config.out`; stops, saved, after the step in which that is asked
    for. Raises DivergedError where the loss or the gradient is no longer finite.
    """
    rank, ranks = distributed.rank(), distributed.world_size()
    torch.manual_seed(seed_of(seed=config.seed, stream=Stream.TRANSFER_STEP, epoch=0, index=0))  # of the new layers
    model, norms = build_model(config, weights, train)
    optimizer, schedule = build_transfer_optimizer(config, model), build_transfer_schedule(config)
    batches = TrainingBatches(train, config, rank, ranks)
    described = {"task": config.task, "classes": list(test.classes)}
    run = open_run(config, "transfer", {"model": model}, optimizer, config.max_steps, described)
    run.result["task"] = config.task
    evaluator = Evaluator(config, run, batches, test, request)

    def begin() -> dict[str, Any]:
        start = run.restore()
        evaluator.begin(start)
        run.log.say(describe_transfer(config, weights, model, norms, batches, test))
        if 0 < start < config.max_steps and is_due(start, config.evaluate_every):  # resuming cut the last one off
            evaluator.evaluate(start)
        return _train(config, model, batches, run, evaluator, schedule, request, start)

    with run, watch_loading():
        return run.until_stopped(request, begin)


def _train(
    config: TransferConfig, model: nn.Module, batches: TrainingBatches, run: Run, evaluator: Evaluator,
    schedule: Schedule, request: StopRequest, start: int,
) -> dict[str, Any]:  # fmt: skip
    """Make the steps of a run from `start` on, and evaluate its model after the last."""
    steps, device, rank, optimizer = config.max_steps, config.device, distributed.rank(), run.optimizer
    scaler = run.scaler
    recent, wrapped = Recent(start, active=config.log_every > 0), distributed.wrap(model.train())
    loading = request.between(batches.run(start, steps, config.workers or 0))
    for step, batch in enumerate(recent.waiting(loading), start):
        images, targets = move_batch(batch, device)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        # a detector draws the anchors and regions that it learns from
        torch.manual_seed(seed_of(seed=config.seed, stream=Stream.TRANSFER_STEP, epoch=step + 1, index=rank))

        with autocast(config.precision, device):
            losses = wrapped(images, targets)  # {part: loss}
        loss = sum(losses.values(), torch.zeros((), device=device))
        torch.autograd.backward(scaler.scale(loss))

        norm, overflowed, finite = measure_gradient(scaler, optimizer, model.parameters(), loss)
        diverged, stopping = distributed.on_any_rank(not finite, request.noted)
        if diverged:
            advice = f"start again with a smaller --lr (now {config.lr:g}) or more --warmup-steps"
            raise run.diverge(step, [loss], norm, advice)
        step_unless(overflowed, scaler, optimizer.step)
        optimizer.zero_grad()

        recent.add({name: value.float() for name, value in losses.items()})
        if is_due(step + 1, config.log_every, steps):
            evaluator.log(step + 1, recent, {"lr": schedule(step), "gradient_norm": float(norm)})
        run.advance(step + 1)
        if stopping or step + 1 == steps or is_due(step + 1, config.checkpoint_every):
            run.save(step + 1)
        if stopping:
            return run.stop(step + 1)
        if step + 1 < steps and is_due(step + 1, config.evaluate_every):
            with recent.paused():
                evaluator.evaluate(step + 1)
    return evaluator.finish(steps)
