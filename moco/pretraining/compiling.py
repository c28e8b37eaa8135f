"""Whether the encoders of a run are compiled: as `--compile` says, or as a timed comparison on this GPU does."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch._functorch.config as functorch
from torch import Tensor, nn

from moco.core.pair import EncoderPair
from moco.errors import BadInputError, one_line
from moco.pretraining.config import PretrainConfig
from moco.runtime import distributed
from moco.runtime.device import HALVES, autocast
from moco.runtime.fields import require
from moco.runtime.run import Run
from moco.runtime.runlog import read_events

EVENT = "compile"
"""The event of metrics.jsonl that tells a resumed run what was chosen."""
LEAST_STEPS = 5000
"""Steps from which on a minute of compiling is made good by steps that are some ten milliseconds shorter."""
WARM_UP, TIMED = 3, 10
GAIN = 0.97
"""Share of the plain time that compiled encoders may take, so that noise alone does not choose them."""
KEPT = 0.3
"""Share of the inner values that a compiled encoder may keep for the gradient with --recompute: about what it keeps
uncompiled, of each block its input."""


class Comparison(NamedTuple):
    """What encoding a batch takes, forward and backward, in milliseconds."""

    plain: float
    compiled: float | None
    """The same when compiled; None if compiling failed."""
    compiling: float
    """Seconds until the first compiled pass was made."""
    reason: str = ""
    """Why compiling failed."""

    @property
    def faster(self) -> bool:
        """Return whether compiled encoders are clearly faster."""
        return self.compiled is not None and self.compiled < GAIN * self.plain

    def describe(self) -> str:
        """Say in a line what was found and chosen."""
        chosen = "compiled" if self.faster else "plain"
        if self.compiled is None:
            return f"--compile auto: encoders stay plain, since they cannot be compiled here ({self.reason})"
        return (
            f"--compile auto: encoding a batch takes {self.plain:.1f} ms plain and {self.compiled:.1f} ms compiled "
            f"(compiling took {self.compiling:.0f} s): encoders are {chosen}"
        )


def settle_compilation(config: PretrainConfig, pair: EncoderPair, run: Run, start: int) -> None:
    """Compile the encoders of a run or leave them plain; what a comparison chose is logged and holds for the whole run.

    All ranks call it together, before f_q is wrapped.
    """
    if config.compile == "auto":
        earlier = distributed.from_first(lambda: read_events(config.out, EVENT))
        if earlier:
            chosen = earlier[-1].get("compiled") is True
        elif require(config.max_steps) - start < LEAST_STEPS:
            chosen = False
        else:
            own = compare_compiled(config, pair)
            found = distributed.from_first(lambda: own)
            run.log.event(
                EVENT, step=start, compiled=found.faster, plain_ms=round(found.plain, 2), compiling_s=found.compiling,
                compiled_ms=None if found.compiled is None else round(found.compiled, 2),
            )  # fmt: skip
            run.log.say(found.describe())
            chosen = found.faster
    else:
        chosen = config.compile == "on"
    if chosen:
        compile_encoders(pair)
    else:
        leave_plain(pair)


def compile_encoders(pair: EncoderPair) -> None:
    """Compile what the loop calls; evaluations, at other sizes, call the backbone as it is.

    Raises BadInputError where there is no folder for compiled code.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # here, since importing the compiler takes seconds

    try:
        folder = cache_dir()
    except OSError as error:
        folder, reason = str(error.filename), error.strerror
    else:
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "no files can be made in it"
    if reason is not None:
        raise BadInputError(
            f"--compile needs a folder for compiled code and cannot use {folder} ({reason}): set "
            f"TORCHINDUCTOR_CACHE_DIR to one that can be written, or leave --compile out"
        )
    for encoder in _encoders(pair):
        encoder.compile()


def leave_plain(pair: EncoderPair) -> None:
    """Call the encoders as they are, whether they were compiled before or not."""
    for encoder in _encoders(pair):
        encoder._compiled_call_impl = None  # torch has no public way back


def _encoders(pair: EncoderPair) -> list[nn.Module]:
    return [pair.encoder, *([] if pair.f_k is None else [pair.f_k])]


@contextmanager
def keep_less(recompute: bool) -> Iterator[None]:
    """Make encoders compiled inside the block recompute most activations, with --recompute.

    A compiler cannot look into `torch.utils.checkpoint` where it runs code of ours; it has a budget of its own.
    """
    before = functorch.activation_memory_budget
    functorch.activation_memory_budget = KEPT if recompute else before
    try:
        yield
    finally:
        functorch.activation_memory_budget = before


def compare_compiled(config: PretrainConfig, pair: EncoderPair) -> Comparison:
    """Time the encoders' passes over a batch of noise plain and compiled; state and random numbers stay."""
    buffers = [buffer for encoder in _encoders(pair) for buffer in encoder.buffers()]
    before = [buffer.clone() for buffer in buffers]
    devices = [torch.cuda.current_device()] if config.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        encode = _pass(config, pair)
        plain, _ = _time(encode, config.device)
        try:
            compile_encoders(pair)
            compiled, compiling = _time(encode, config.device)
            found = Comparison(1000 * plain, 1000 * compiled, round(compiling, 1))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a compiler that is missing or broken raises
            found = Comparison(1000 * plain, None, 0.0, one_line(error)[:200])
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    for parameter in pair.encoder.parameters():
        parameter.grad = None
    return found


def _pass(config: PretrainConfig, pair: EncoderPair) -> Callable[[], None]:
    """What a step does with its views between loading and loss: noise of their shape, type and layout."""
    n, side = config.batch_size // distributed.world_size(), require(config.view_size)
    kind = HALVES["bf16"] if config.precision == "bf16" else torch.float32
    noise = torch.randn(2, n, pair.encoder.plan.channels, side, side, device=config.device, dtype=kind)
    x_q, x_k = (views.contiguous(memory_format=torch.channels_last) for views in noise)
    own_keys = pair.teacher is None and config.dictionary != "memory-bank"

    def encode() -> None:
        with autocast(config.precision, config.device):
            k = pair.keys(x_k, 0) if own_keys else None
            parts: list[tuple[Tensor, Tensor, Tensor | None]] = [
                (x_q.chunk(config.accumulate)[part], x_k.chunk(config.accumulate)[part],
                 None if k is None else k.chunk(config.accumulate)[part])
                for part in range(config.accumulate)
            ]  # fmt: skip
            for queries, keys, encoded in parts:
                q, _ = pair(queries, keys, encoded, 0)
                torch.autograd.backward(q.sum())

    return encode


def _time(encode: Callable[[], None], device: str) -> tuple[float, float]:
    """The median seconds of a pass, and those of the first one, which compiles."""
    seconds = []
    for _ in range(WARM_UP + TIMED):
        _finish(device)
        began = time.perf_counter()
        encode()
        _finish(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM_UP:]), seconds[0]


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
