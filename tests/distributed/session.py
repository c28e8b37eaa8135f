"""What one of R processes does: real runs of `pretrain`, each into a folder of its own."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from moco.core.dictionary import MemoryBank
from moco.core.encoder import Encoder
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.data.loader import Batch
from moco.errors import BadInputError
from moco.pretraining import prepare
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.recipes import recipe
from moco.runtime import distributed
from moco.runtime.checkpoint import checkpoint_path

STEPS, MIDDLE, BATCH, IMAGES, QUEUE = 50, 25, 8, 40, 36
SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 12, "view_size": None, "batch_size": BATCH, "queue_size": QUEUE,
    "max_steps": STEPS, "bn_groups": 4, "log_every": 1, "checkpoint_every": MIDDLE, "knn_every": 0, "threads": 1,
    "precision": "fp32", "device": "cpu", "augment": "cifar", "lr": 0.02, "feature_dim": 8, "timeout": 60.0,
    "init": "kaiming", "optimizer": "sgd",
}  # fmt: skip
WEIGHTS = "weights"
"""A run beside the sessions."""
FEWER, HALF = 12, 6
"""Steps of the other dictionaries and half of them: their images or batches come by twice and more."""
SHARDED, RESUMED, WRONG_GROUPS, FP32 = "memory-bank-sharded", "memory-bank-resumed", "queue-of-2-groups", "queue-fp32"
IN_PARTS: dict[str, Any] = {
    "dictionary": "queue", "batch_size": 2 * BATCH, "bn_groups": 8, "symmetric": True, "accumulate": 2, "max_steps": 2,
}  # fmt: skip
"""Two directions in two parts each: four backward passes for a step."""
V3: dict[str, Any] = {
    "dictionary": "queue", "queue_size": 0, "batch_keys": True, "symmetric": True, "head": "mlp-bn", "hidden_dim": 12,
    "predictor": "mlp-bn", "scale_loss": True, "temperature": 0.3, "key_momentum": 0.9,
    "key_momentum_schedule": "cosine", "optimizer": "adamw", "lr": 0.002, "weight_decay": 0.1, "warmup_epochs": 0.4,
    "schedule": "cosine-after-warmup", "batch_size": 2 * BATCH, "max_steps": 6,
}  # fmt: skip
"""MoCo v3, with four images in a group: of two, batch normalisation leaves the heads only their signs."""
OWN: dict[str, Any] = {"pretext": "paired", "partner": "digits", "partner_encoder": "own", "symmetric": True}
"""An encoder for each side; the pairs are views that are given."""
SHORT: dict[str, Any] = {"max_steps": FEWER, "checkpoint_every": HALF}
CASES: dict[str, dict[str, Any]] = {
    "queue": {"dictionary": "queue"},
    "queue-symmetric": {"dictionary": "queue", "symmetric": True, **SHORT},
    "memory-bank": {"dictionary": "memory-bank", **SHORT},
    SHARDED: {"dictionary": "memory-bank", **SHORT},
    "in-batch": {"dictionary": "in-batch", **SHORT},
    "queue-own": {"dictionary": "queue", **OWN, **SHORT},
    "in-batch-own": {"dictionary": "in-batch", **OWN, **SHORT},
    "head-first": {"dictionary": "queue", "head_steps": HALF - 1, **SHORT},
}
"""What is compared in float64, with the same config on any number of processes."""

Sent = dict[str, list[int]]


def config_of(out: Path, **values: Any) -> PretrainConfig:
    """A config of small steps on the digits. With --head-steps it starts from the weights of all sessions."""
    given = {"init_weights": str(out.parents[1] / WEIGHTS)} if "head_steps" in values else {}
    return recipe("quick", data="digits", out=out, **{**SMALL, **given, **values})


def images() -> Subset:
    """So few that the runs pass over them ten times."""
    return Subset(load("digits")["train"], np.arange(IMAGES))


def global_batches(config: PretrainConfig, steps: int) -> list[Batch]:
    """The whole batch of each step, in float32; every process computes the same pixels."""
    batches = prepare.build_batches(prepare.resolve_config(config, images()), images())
    whole = dataclasses.replace(batches, rank=0, ranks=1)
    return [whole[step] for step in range(steps)]


@dataclass(frozen=True)
class Shares:
    """The rank's contiguous block of each global batch, in a precision; where there is no f_k, without key views."""

    batches: list[Batch]
    dtype: torch.dtype
    key_views: bool

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the images."""
        return IMAGES // BATCH

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """The batches of steps start..stop-1."""
        for x_q, x_k, index, _ in self.batches[start:stop]:
            assert x_k is not None
            q, k = (distributed.local_block(x).to(self.dtype) for x in (x_q, x_k))
            yield Batch(q, k if self.key_views else None, distributed.local_block(index))


def train(config: PretrainConfig, batches: list[Batch], dtype: torch.dtype, *, sharded: bool = False) -> None:
    """A run in a precision, with a memory bank that is cut over the processes however small it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "MemoryBank", functools.partial(MemoryBank, shard_from=0 if sharded else 1 << 40))
        torch.set_default_dtype(dtype)
        pretrain(config, images(), batches=Shares(batches, dtype, config.dictionary != "memory-bank"))
        torch.set_default_dtype(torch.float32)


def take_up(run: Path, earlier: Path) -> None:
    """Make a run folder of what an earlier run had left in the middle of it."""
    middle = checkpoint_path(run, HALF)
    middle.parent.mkdir(parents=True)
    shutil.copy(checkpoint_path(earlier, HALF), middle)
    shutil.copy(earlier / "config.json", run)
    shutil.copy(earlier / "metrics.jsonl", run)


def refusal(config: PretrainConfig, given: Subset) -> str:
    """What a run says that cannot begin."""
    try:
        pretrain(config, given)
    except BadInputError as error:
        return str(error)
    return "nothing was refused"


def counted(patch: pytest.MonkeyPatch, sent: Sent) -> None:
    """From now on note the bytes that are given to each kind of collective, by its name."""

    def counting(name: str, payload: Callable[..., Tensor]) -> None:
        collective = getattr(dist, name)

        def call(*arguments: Any, **options: Any) -> Any:
            sent.setdefault(name, []).append(payload(*arguments).nbytes)
            return collective(*arguments, **options)

        patch.setattr(dist, name, call)

    counting("all_to_all_single", lambda output, given: given)
    counting("all_gather", lambda outputs, given: given)
    counting("all_reduce", lambda given: given)


def averaged(patch: pytest.MonkeyPatch) -> list[int]:
    """From now on note the size of every piece of gradients that the processes average."""
    sizes, wrap = list[int](), distributed.wrap

    def average(bucket: Any) -> torch.futures.Future[Tensor]:
        sizes.append(bucket.buffer().numel())
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: all

    def wrapping(module: torch.nn.Module, **options: bool) -> torch.nn.Module:
        wrapped = wrap(module, **options)
        if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            wrapped.register_comm_hook(None, lambda _, bucket: average(bucket))
        return wrapped

    patch.setattr(distributed, "wrap", wrapping)
    return sizes


class Found:
    """What a whitener found."""

    figures: ClassVar[dict[str, Any]] = {"rows": 3}
    sentence = "whitened"

    def add_to(self, encoder: Encoder) -> None:
        """Change nothing."""


def whitened_by(folder: Path, rank: int) -> dict[str, Any]:
    """Train where one rank alone finds that whitening pays, as rounding may have it; return the run's figures."""
    config = config_of(folder / f"whitened-by-{rank}", dictionary="queue", max_steps=1)
    mine = Found() if rank == distributed.rank() else None
    return pretrain(config, images(), whitener=lambda encoder: mine)


def tables(patch: pytest.MonkeyPatch) -> dict[str, list[list[float]]]:
    """A table of five rows, cut over the processes (of four the last has none), handed on row by row."""
    patch.setattr(distributed, "PIECE_BYTES", 1)
    whole = torch.arange(10.0).reshape(5, 2)
    rows = distributed.share(5)
    own = whole[rows.start : rows.stop].clone()
    dealt = torch.zeros_like(own)
    distributed.deal(whole if distributed.rank() == 0 else None, dealt, 5)
    return {
        "own": own.tolist(),
        "dealt": dealt.tolist(),
        "collected": distributed.collect(own, 5).tolist(),
        "fetched": distributed.fetch(own, rows, torch.tensor([4, 0, 3, 3])).tolist(),
    }


def go_on(folder: Path, earlier: Path, batches: list[Batch]) -> None:
    """Take up the run with a sharded bank of an earlier session from its checkpoint in the middle."""
    if distributed.rank() == 0:
        take_up(folder / RESUMED, earlier / SHARDED)
    distributed.barrier()
    train(config_of(folder / RESUMED, **CASES[SHARDED]), batches, torch.float64, sharded=True)


def take_up_session(folder: Path, earlier: Path) -> None:
    """Only take up the run of an earlier session."""
    torch.set_num_threads(1)
    distributed.join_processes("cpu", timeout=60)
    go_on(folder, earlier, global_batches(config_of(folder), FEWER))
    distributed.barrier()
    distributed.leave_processes()


def session(folder: Path, earlier: Path | None) -> None:
    """Run every case into FOLDER/CASE, and write what else this process found to FOLDER/RANK.json.

    `earlier` is the folder of another session, with another number of processes: a run of it is taken up from its
    checkpoint in the middle.
    """
    torch.set_num_threads(1)
    distributed.join_processes("cpu", timeout=60)
    found: dict[str, Any] = {}
    sent: Sent = {}
    rank, ranks = distributed.rank(), distributed.world_size()
    if ranks > 1:
        unequal = Subset(load("digits")["train"], np.arange(IMAGES - rank))
        found["unequal data"] = refusal(config_of(folder / "unequal"), unequal)
        found["unequal flags"] = refusal(config_of(folder / "unequal", lr=0.1 * (rank + 1)), images())
        found["whitened"] = [whitened_by(folder, one).get("whitened") for one in (0, 1)]
    with pytest.MonkeyPatch.context() as patch:
        found["tables"] = tables(patch)
    batches = global_batches(config_of(folder), STEPS)
    for name, values in CASES.items():
        train(config_of(folder / name, **values), batches, torch.float64, sharded=name == SHARDED)
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, sent)
        train(config_of(folder / FP32, dictionary="queue", max_steps=3), batches, torch.float32)
    found["sent"] = sent
    with pytest.MonkeyPatch.context() as patch:
        found["averaged"] = averaged(patch)
        in_parts = config_of(folder / "parts", **IN_PARTS)
        train(in_parts, global_batches(in_parts, 2), torch.float64)
    v3 = config_of(folder / "v3", **V3)
    train(v3, global_batches(v3, 6), torch.float64)
    if earlier is not None:
        go_on(folder, earlier, batches)
    if ranks == 1:
        train(config_of(folder / WRONG_GROUPS, dictionary="queue", bn_groups=2), batches, torch.float64)
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    distributed.barrier()
    distributed.leave_processes()
