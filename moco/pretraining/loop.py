"""The loop: from unlabelled images to an encoder, by momentum contrast."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from moco.core.blending import blend_views
from moco.core.dictionary import add_batch_keys, gather_batch_keys
from moco.core.negatives import Hardness, mix_hard_negatives, negative_figures
from moco.core.pair import Side, Sides, Teacher
from moco.data.ahead import watch_loading
from moco.data.images import Images
from moco.data.loader import Batch, Batches
from moco.interop.metadata import encoder_metadata
from moco.pretraining.compiling import keep_less, settle_compilation
from moco.pretraining.config import PretrainConfig
from moco.pretraining.description import describe_run
from moco.pretraining.initial import as_built, describe_begun, load_f_k_and_queue
from moco.pretraining.limits import advise_less_memory
from moco.pretraining.monitor import ENCODERS, TRAINING, Checkup, Monitor, Watch, Whitener, log_ranks, pack_encoder
from moco.pretraining.optimizer import build_optimizer, set_rate, take_step
from moco.pretraining.prepare import (
    build_batches,
    build_key_momentum,
    build_loss,
    build_schedule,
    resolve_config,
)
from moco.pretraining.pretexts import forget_partners
from moco.pretraining.sides import build_sides, list_sides, name_modules, trained_parameters, update
from moco.pretraining.sources import require_same_sources
from moco.pretraining.timetable import Timetable, follow_lengths
from moco.runtime import distributed
from moco.runtime.allocation import keep_freed_memory
from moco.runtime.device import autocast, choose_algorithms, preserve_torch_state, resolve_device
from moco.runtime.fields import require
from moco.runtime.finite import FiniteCheck
from moco.runtime.owncode import OwnCode
from moco.runtime.phases import say_if_slow
from moco.runtime.recent import Recent
from moco.runtime.run import HOW_NOT_WHAT, TEACHER, Run, open_run, read_earlier, repeat_result
from moco.runtime.scaling import measure_norm, step_unless
from moco.runtime.schedule import is_due
from moco.runtime.signals import StopRequest


def pretrain(
    config: PretrainConfig, images: Images, monitor: Monitor | None = None, batches: Batches | None = None,
    checkup: Checkup | None = None, teacher: Teacher | None = None, own: OwnCode | None = None,
    whitener: Whitener | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train an encoder on images by momentum contrast (v1, Algorithm 1) and return the run's figures.

    `batches` are given where the loop is timed without loading; else they are views of the images. A `teacher` is given
    where `config` names one, the user's `own` pretext where it names that, and a `whitener` where the run is to end by
    whitening its features. A run of the same config in `config.out` is continued. The caller's random state and number
    of threads stay as they are. Raises BadInputError for a config that does not fit the images or the machine, and
    DivergedError where the loss or the gradient is no longer finite.
    """
    distributed.join_processes(resolve_device(config.device), config.timeout)
    with preserve_torch_state(resolve_device(config.device)):
        config = follow_lengths(resolve_config(config, images))
        forget_partners()
        earlier = read_earlier(config, HOW_NOT_WHAT, functools.partial(require_same_sources, config, images))
        if earlier.get("state") == "done":
            return repeat_result(config, earlier)

        torch.manual_seed(config.seed)
        with say_if_slow("building the network"):
            sides = build_sides(built := as_built(config), images, teacher, own)
        origin = load_f_k_and_queue(built, *sides[0][:2], len(images), whitened=sides[0].whitened)
        encoders = [side.pair.encoder for side in sides]
        f_q = encoders[0]
        described = encoder_metadata(
            f_q.plan, require(config.mean), require(config.std), 0, config.white_level, images.form
        )
        described |= {} if teacher is None else {TEACHER: teacher.digest}
        optimizer, steps = build_optimizer(config, *encoders), require(config.max_steps)
        run = open_run(config, "pretrain", name_modules(sides), optimizer, steps, described)
        packed = list(zip(list_sides(config, images), encoders, ENCODERS, strict=False))
        run.beside = lambda step: [pack_encoder(how, own, step, of.form, name) for (how, of), own, name in packed]
        run.less_memory = advise_less_memory(config, distributed.world_size())
        run.result |= {} if teacher is None else {"teacher_digest": teacher.digest}
        watch = Watch(config, run, images, monitor, checkup, whitener)
        batches = build_batches(config, images, own) if batches is None else batches

        def begin() -> dict[str, Any]:
            start = run.restore(TRAINING)
            with request.waiting():
                watch.begin(start)
            run.log.say(describe_run(config, f_q, images) + (origin or describe_begun(config, start)))
            keep_freed_memory()
            for side in sides:
                settle_compilation(config, side.pair, run, start)
                side.pair.f_q = distributed.wrap(side.pair.encoder, find_unused_parameters=config.head_steps > 0)
            return train(config, sides, batches, run, watch, request, start)

        how = (keep_less(config.recompute), choose_algorithms(deterministic=config.deterministic))
        with run, StopRequest(together=distributed.world_size() > 1) as request, watch_loading(), how[0], how[1]:
            return run.until_stopped(request, begin)


def train(
    config: PretrainConfig, sides: Sides, batches: Batches, run: Run, watch: Watch, request: StopRequest, start: int,
) -> dict[str, Any]:  # fmt: skip
    """Make the steps of a run from `start` on: Algorithm 1, and what is logged and saved between two steps."""
    device, precision, scale = config.device, config.precision, 2 * config.temperature if config.scale_loss else 1.0
    schedule, timetable = build_schedule(config, batches.steps_per_epoch), Timetable(watch)
    contrast, hardness = build_loss(config), Hardness(config.hard_negatives, config.mix, config.mix_query)
    m, recent = build_key_momentum(config), Recent(start, active=config.log_every > 0)
    check = FiniteCheck(device, config.timeout if distributed.world_size() > 1 else math.inf)
    loading = recent.waiting(request.between(batches.run(start, timetable.latest, require(config.workers))))
    for step, loaded in zip(timetable.steps(start), loading, strict=False):
        if step == start:
            log_ranks(run, step, loaded.index)
        if is_due(step, require(config.knn_every)):
            with recent.paused(), timetable.looking(), request.waiting():
                watch.look(step)
        batch, logged = loaded.to(device), is_due(step + 1, config.log_every, schedule.steps)
        lr, directions = set_rate(run.optimizer, schedule(step)), pair_views(batch, sides, symmetric=config.symmetric)
        losses, written, shares = list[Tensor](), [], dict[str, Tensor]()
        for here, there, x_q, x_k in directions:  # (N, 3, H, W) each; the queries' side and the keys', mostly one
            with autocast(precision, device):
                k = there.pair.keys(x_k, step, batch.index, step // batches.steps_per_epoch)  # (N, C): by f_k, detached
            beside = gather_batch_keys(require(k), batch.index) if config.batch_keys else None
            parts = cut(config.accumulate, x_q, x_k, k, batch.index)
            for x_q, x_k, k, index in parts:
                last = (len(losses) + 1) % (len(directions) * config.accumulate // len(sides)) == 0
                distributed.average_gradients(here.pair.f_q, there.pair.f_q, now=last)
                if config.blend:
                    place = len(losses) * distributed.world_size() + distributed.rank()
                    x_q, partner, own = blend_views(x_q, seed=config.seed, step=step, place=place)
                with autocast(precision, device):
                    q, k = here.pair(x_q, x_k, k, step, there.pair.f_q)  # (N, C) each
                keys = add_batch_keys(there.dictionary.read(k, index), index, beside)  # positives (N, C), K negatives
                if config.hard_negatives:
                    keys = mix_hard_negatives(q, keys, hardness, seed=config.seed, step=step)
                loss, accuracy = contrast(q, keys)
                if config.blend:
                    other = there.dictionary.read(None if k is None else k[partner], index[partner])
                    loss = own * loss + (1 - own) * contrast(q, add_batch_keys(other, index[partner], beside)).loss
                torch.autograd.backward(run.scaler.scale(scale * loss / config.accumulate))
                written.append((q.detach(), k, index))
                losses.append(loss.detach())
                recent.add({"loss": loss, "contrast_accuracy": accuracy})
                if logged:
                    shares = negative_figures(q, keys, config.temperature, index, watch.labels)

        norm, overflowed = measure_norm(run.scaler, run.optimizer, trained_parameters(sides))
        saved = step + 1 == schedule.steps or is_due(step + 1, require(config.checkpoint_every))
        due = logged or saved or is_due(step + 1, require(config.knn_every))
        check.note(step, losses, torch.zeros_like(norm) if overflowed else norm)
        stopping = agree(step, check, watch, request, batch, now=due)
        step_unless(overflowed, run.scaler, lambda: take_step(run.optimizer))
        run.optimizer.zero_grad()
        update(sides, m(step))  # f_k <- m f_k + (1 - m) f_q
        for (_, there, *_), (q, k, index) in zip(directions, join(written, config.accumulate), strict=True):
            there.dictionary.write(q, k, index)  # newest in, oldest out

        if logged:
            watch.log(step + 1, recent, {"lr": lr}, {"gradient_norm": norm, **shares})
        run.advance(step + 1)
        if stopping or saved:
            run.save(step + 1)
        if stopping:
            return run.stop(step + 1)
        if timetable.plan(step + 1):
            schedule, m = build_schedule(watch.config, batches.steps_per_epoch), build_key_momentum(watch.config)
    with request.waiting():
        watch.look(schedule.steps)
    watch.end(schedule.steps)
    return run.finish(schedule.steps, device)


def agree(step: int, check: FiniteCheck, watch: Watch, request: StopRequest, batch: Batch, *, now: bool) -> bool:
    """Agree over all ranks whether to stop after a step, whose loss must be known finite `now` or a step later."""
    failed = check.failed(now=now or request.noted)
    diverged, stopping, damaged = distributed.on_any_rank(failed, request.noted, bool(batch.replaced))
    if damaged:
        watch.announce(step + 1, batch.replaced)
    if diverged:
        advice = f"start again with a smaller --lr (now {watch.config.lr:g}) or --precision fp32"
        raise watch.run.diverge(*check.failure[:3], advice)
    return stopping


def pair_views(batch: Batch, sides: Sides, *, symmetric: bool) -> list[tuple[Side, Side, Tensor, Tensor | None]]:
    """Pair the views of a batch as (x_q, x_k), and where the loss is symmetric also with their roles exchanged.

    Before them stand the sides of x_q and x_k.
    """
    here, there, x_q, x_k = sides[0], sides[-1], batch.x_q, batch.x_k
    both = [(here, there, x_q, x_k)]
    return [*both, (there, here, x_k, x_q)] if symmetric and x_k is not None else both


def cut(count: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Cut a batch into `count` parts: the rows of each tensor, None for None."""
    columns = [[None] * count if tensor is None else tensor.chunk(count) for tensor in tensors]
    return zip(*columns, strict=True)


def join(written: Sequence[tuple[Any, ...]], count: int) -> Iterator[tuple[Any, ...]]:
    """Put every `count` parts together again, which undoes `cut`; without gradient."""
    for first in range(0, len(written), count):
        columns = zip(*written[first : first + count], strict=True)
        yield tuple(None if column[0] is None else torch.cat(column).detach() for column in columns)
