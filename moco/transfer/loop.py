"""THE loop of transfer: an encoder, a task's model on it, annotated images -> figures (v1, 4.2)."""

from typing import Any

import torch
from torch.nn.utils import get_total_norm

from moco.data.loader import watch_loading
from moco.interop.checkpoints import Weights
from moco.runtime import distributed, pulse
from moco.runtime.device import autocast
from moco.runtime.randomness import Stream, seed_of
from moco.runtime.runlog import RunLog
from moco.runtime.signals import EXIT_CODE, StopRequest
from moco.transfer.batches import TrainingBatches, moved
from moco.transfer.config import TransferConfig
from moco.transfer.examples import Examples
from moco.transfer.models import build_model, build_optimizer, build_schedule, introduction
from moco.transfer.record import Record


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
    optimizer, schedule = build_optimizer(config, model), build_schedule(config)
    batches = TrainingBatches(train, config, rank, ranks)
    log = RunLog(config.out, steps, active=rank == 0, stdout=not config.json)

    with log, watch_loading(), pulse.watched(rank, ranks):
        record = Record(config, model, optimizer, log, batches, test)
        start = record.restore()
        log.say(introduction(config, weights, model, norms, batches, test))
        record.catch_up(start)
        wrapped = distributed.wrap(model.train())
        for step, batch in enumerate(batches.run(start, steps, config.workers or 0), start):
            images, targets = moved(batch, device)
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            # a detector draws the anchors and regions that it learns from
            torch.manual_seed(seed_of(seed=config.seed, stream=Stream.TRANSFER_STEP, epoch=step + 1, index=rank))

            with autocast(config.precision, device):
                losses = wrapped(images, targets)  # {part: loss}
            loss = sum(losses.values(), torch.zeros((), device=device))
            torch.autograd.backward(loss)

            norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            finite = bool(torch.isfinite(loss.detach() + norm))
            diverged, stopping = distributed.on_any_rank(device, not finite, request.noted)
            if diverged:
                raise record.diverged(step, loss.detach(), norm)
            optimizer.step()
            optimizer.zero_grad()
            record.after_step(step + 1, losses, norm, schedule(step), save=stopping)
            if stopping:
                return record.stop(step + 1, EXIT_CODE)
        return record.finish(steps)
