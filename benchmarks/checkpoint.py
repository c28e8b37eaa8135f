"""What a checkpoint of ResNet-50 with K = 65536 costs: the stall, the writing beside the training, and what it slows.

    python -m benchmarks.checkpoint [--saves 5] [--folder FOLDER] [--threads 2]

from the root of the repository. The state is the real one, saved by the run's own `Run`; the training beside the
writing is forward and backward passes of ResNet-50 on 8 images of 64 pixels.
"""

import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import nn

from moco.core.encoder import Encoder
from moco.core.pair import EncoderPair
from moco.pretraining.config import PretrainConfig
from moco.pretraining.monitor import pack_encoder
from moco.pretraining.prepare import build_dictionary, build_encoder
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path
from moco.runtime.run import open_run

IMAGES = 1_281_167
EVERY = 300.0
"""Seconds between two checkpoints."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    saves: int = 5
    """Checkpoints."""
    steps: int = 12
    """Forward and backward passes for each of them, and as many without."""
    threads: int = 2
    """Threads inside an operation."""
    folder: Path | None = None
    """Where to write; by default a folder that is removed afterwards."""


def trained(config: PretrainConfig) -> tuple[dict[str, nn.Module], torch.optim.SGD]:
    """What a run trains, and its optimiser with a momentum for every parameter."""
    f_q = build_encoder(config)
    pair = EncoderPair(f_q, config.dictionary)
    optimizer = torch.optim.SGD(f_q.parameters(), momentum=0.9, weight_decay=1e-4, fused=True)
    for parameter in f_q.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    assert pair.f_k is not None
    return {"f_q": f_q, "f_k": pair.f_k, "dictionary": build_dictionary(config, IMAGES)}, optimizer


def steps(encoder: nn.Module, x: torch.Tensor, count: int) -> float:
    """Seconds that passes forward and backward take."""
    began = time.monotonic()
    for _ in range(count):
        encoder(x).square().sum().backward()
    return time.monotonic() - began


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        config = dataclasses.replace(
            recipe("v1", data="digits", out=Path(temporary), device="cpu", precision="fp32", max_steps=100_000),
            log_every=0, checkpoint_every=0, knn_every=0, bn_groups=32,
        )  # fmt: skip
        modules, optimizer = trained(config)
        f_q, x = modules["f_q"], torch.randn(8, 3, 64, 64)
        assert isinstance(f_q, Encoder)
        run = open_run(config, "pretrain", modules, optimizer, 100_000, {})
        run.beside = lambda step: [pack_encoder(config, f_q, step)]
        stalls, worked, writings, slowed, alone = [], [], [], [], []
        with run:
            steps(f_q, x, 3)
            for number in range(1, options.saves + 1):
                alone.append(steps(f_q, x, options.steps))
                began = time.monotonic()
                run.save(number)
                stalls.append(time.monotonic() - began)
                slowed.append(steps(f_q, x, options.steps))
                run.wait()
                began, work = time.monotonic(), time.thread_time()
                run.save(100 + number)
                worked.append(time.thread_time() - work)
                begun = time.monotonic()
                run.wait()
                stalls.append(begun - began)
                writings.append(time.monotonic() - begun)
            size = checkpoint_path(config.out, 100 + options.saves).stat().st_size
    stall, writing = statistics.median(stalls), statistics.median(writings)
    slower = max(0.0, statistics.median(slowed) - statistics.median(alone))
    console = Console(width=120, highlight=False)
    console.print(f"a checkpoint has {size / 1e6:.0f} MB; {options.saves} of each measurement, medians")
    console.print(
        f"stall of training: {stall * 1e3:.0f} ms (least {min(stalls) * 1e3:.0f}, largest {max(stalls) * 1e3:.0f}), "
        f"of which the processor worked {statistics.median(worked) * 1e3:.0f} ms"
    )
    console.print(f"writing beside it, with nothing else to do: {writing:.2f} s (largest {max(writings):.2f})")
    console.print(
        f"{options.steps} passes: {statistics.median(alone):.2f} s alone, {statistics.median(slowed):.2f} s beside it: "
        f"{slower:.2f} s more"
    )
    console.print(f"share of {EVERY:.0f} s: {100 * (stall + slower) / EVERY:.2f}%")


if __name__ == "__main__":
    main(tyro.cli(Options))
