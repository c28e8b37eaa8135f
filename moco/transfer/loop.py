"""THE loop of transfer: an encoder, a task's model on it, annotated images -> figures (v1, 4.2)."""

from typing import Any

import torch
from torch.nn.utils import get_total_norm

from moco.data.loader import watch_loading
from moco.interop.checkpoints import Weights
from moco.runtime import distributed, pulse
from moco.runtime.device import autocast
from moco.runtime.randomness import Stream, seed_of
from moco.runtime.recent import Recent
from moco.runtime.run import is_finite, open_run
from moco.runtime.scaling import overflows
from moco.runtime.schedule import is_due
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
    steps, device, rank, ranks = config.max_steps, config.device, distributed.rank(), distributed.world_size()
    torch.manual_seed(seed_of(seed=config.seed, stream=Stream.TRANSFER_STEP, epoch=0, index=0))  # of the new layers
    model, norms = build_model(config, weights, train)
    optimizer, schedule = build_transfer_optimizer(config, model), build_transfer_schedule(config)
    batches = TrainingBatches(train, config, rank, ranks)
    described = {"task": config.task, "classes": list(test.classes)}
    run = open_run(config, "transfer", {"model": model}, optimizer, steps, described)
    run.result["task"] = config.task
    evaluator, scaler = Evaluator(config, run, batches, test), run.scaler

    with run, watch_loading(), pulse.watch_collectives(rank, ranks):
        start = run.restore()
        evaluator.begin(start)
        run.log.say(describe_transfer(config, weights, model, norms, batches, test))
        if 0 < start < steps and is_due(start, config.evaluate_every):  # that of the last time is cut off
            evaluator.evaluate(start)
        recent, wrapped = Recent(start, active=config.log_every > 0), distributed.wrap(model.train())
        for step, batch in enumerate(batches.run(start, steps, config.workers or 0), start):
            images, targets = move_batch(batch, device)
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            # a detector draws the anchors and regions that it learns from
            torch.manual_seed(seed_of(seed=config.seed, stream=Stream.TRANSFER_STEP, epoch=step + 1, index=rank))

            with autocast(config.precision, device):
                losses = wrapped(images, targets)  # {part: loss}
            loss = sum(losses.values(), torch.zeros((), device=device))
            torch.autograd.backward(scaler.scale(loss))

            scaler.unscale_(optimizer)
            norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            overflowed = overflows(scaler, norm)
            finite = is_finite(loss) if overflowed else is_finite(norm, loss)
            diverged, stopping = distributed.on_any_rank(device, not finite, request.noted)
            if diverged:
                advice = f"start again with a smaller --lr (now {config.lr:g}) or more --warmup-steps"
                raise run.diverge(step, [loss], norm, advice)
            if not overflowed:
                optimizer.step()
            scaler.update()
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
