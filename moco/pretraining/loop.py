"""The loop: from unlabelled images to an encoder, by momentum contrast."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from moco.core.loss import Contrast, info_nce
from moco.core.pair import EncoderPair
from moco.data.images import Images
from moco.data.loader import Batches, loading, moved
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import take_up
from moco.pretraining.prepare import (
    build_batches,
    build_dictionary,
    build_encoder,
    build_optimizer,
    build_schedule,
    earlier_run,
    harder,
    introduction,
    resolve,
)
from moco.pretraining.record import Checkup, Monitor, Record
from moco.runtime import distributed, pulse
from moco.runtime.device import autocast, resolve_device
from moco.runtime.fields import settled
from moco.runtime.runlog import RunLog
from moco.runtime.signals import EXIT_CODE, StopRequest


def pretrain(
    config: PretrainConfig, images: Images, monitor: Monitor | None = None, batches: Batches | None = None,
    checkup: Checkup | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train an encoder on images by momentum contrast (v1, Algorithm 1) and return the run's figures.

    `batches` are given where the loop is timed without loading; else they are views of the images. Goes on where a run
    of the same config lies in `config.out`. Raises BadInputError for a config that does not fit the images or the
    machine, and DivergedError where the loss or the gradient is no longer finite.
    """
    distributed.start(resolve_device(config.device), config.timeout)
    config = resolve(config, images)
    steps, device, precision = settled(config.max_steps), config.device, config.precision
    earlier = distributed.from_first(lambda: earlier_run(config, images))
    if earlier.get("state") == "done":
        return {**earlier["result"], "already_done": True}

    torch.manual_seed(config.seed)
    f_q = build_encoder(config).to(device).to(memory_format=torch.channels_last)
    pair = EncoderPair(f_q, config.dictionary, seed=config.seed)
    if config.compile:
        compile_encoders(pair)
    dictionary = build_dictionary(config, len(images)).to(device)
    origin = take_up(config, pair, dictionary)
    optimizer = build_optimizer(config, f_q)
    batches = build_batches(config, images) if batches is None else batches
    schedule = build_schedule(config, batches.steps_per_epoch)
    trained = {"f_q": f_q, "dictionary": dictionary} | ({"f_k": pair.f_k} if pair.f_k is not None else {})
    log = RunLog(config.out, steps, active=distributed.rank() == 0, stdout=not config.json)

    with log, StopRequest() as request, loading(), pulse.watched(distributed.rank(), distributed.world_size()):
        record = Record(config, trained, optimizer, log, images, monitor, checkup)
        start = record.restore()
        log.say(introduction(config, f_q, images) + origin)
        pair.f_q = distributed.wrap(f_q)
        for step, batch in enumerate(batches.run(start, steps, settled(config.workers)), start):
            record.before_step(step, batch[2])
            x_q, x_k, index, replaced = moved(batch, device)
            optimizer.param_groups[0]["lr"] = schedule(step)

            contrasts, written = [], []
            for x_a, x_b in ((x_q, x_k), (x_k, x_q))[: 1 + config.symmetric]:
                with autocast(precision, device):
                    k = pair.keys(x_b, step)  # (N, C) by f_k: shuffled, without gradient
                queries = []
                for a, b, k_part, rows in parts(config.accumulate, x_a, x_b, k, index):
                    with autocast(precision, device):
                        q, k_part = pair(a, b, k_part, step)  # (N, C) each
                    keys = harder(q, dictionary.read(k_part, rows), config, step)  # positive (N, C), negative (K, C)
                    record.look_at_negatives(step + 1, q, keys, rows)
                    contrasts.append(info_nce(q, keys, config.temperature))
                    torch.autograd.backward(contrasts[-1].loss / config.accumulate)
                    queries.append(q.detach())
                written.append((torch.cat(queries), k, index))

            norm = get_total_norm([p.grad for p in f_q.parameters() if p.grad is not None])
            flags = (not finite(contrasts, norm), request.noted, bool(replaced))
            diverged, stopping, damaged = distributed.on_any_rank(device, *flags)
            record.replaced(step + 1, replaced, on_any_rank=damaged)
            if diverged:
                raise record.diverged(step, contrasts, norm)
            optimizer.step()
            optimizer.zero_grad()
            pair.update(config.key_momentum)  # f_k <- m f_k + (1 - m) f_q
            for q, k, index in written:
                dictionary.write(q, k, index)  # newest in, oldest out
            record.after_step(step + 1, contrasts, norm, schedule(step), save=stopping)
            if stopping:
                return record.stop(step + 1, EXIT_CODE)
        return record.finish(steps)


def finite(contrasts: list[Contrast], gradient_norm: Tensor) -> bool:
    """Whether the loss and the gradient are numbers."""
    return bool(torch.isfinite(sum((contrast.loss.detach() for contrast in contrasts), gradient_norm)))


def compile_encoders(pair: EncoderPair) -> None:
    """Compile what the loop calls; evaluations, at other sizes, call the backbone as it is."""
    for encoder in (pair.f_q, pair.f_k):
        if encoder is not None:
            encoder.compile()


def parts(count: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Cut a batch into `count` parts: the rows of each tensor, None for None."""
    columns = [[None] * count if tensor is None else tensor.chunk(count) for tensor in tensors]
    return zip(*columns, strict=True)
