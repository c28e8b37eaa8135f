"""A step on a GPU never waits for the GPU, but once for whether the step before was sound: counted on the CPU.

Every tensor that comes from the batch, the networks or the dictionary is taken for one on a GPU, and so is what is
computed of it. Whatever makes a host ask for such a tensor's content is noted: `.item()` and its like, `.tolist()`,
`.cpu()`, `.numpy()`, copies into tensors of the host, boolean masks, and tensors made of the host's numbers.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moco.core.dictionary import MemoryBank
from moco.data.catalog import load
from moco.data.loader import Batch
from moco.pretraining import loop
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_batches, resolve_config
from moco.runtime.distributed import fetch
from tests.pretraining.test_loop import small

ALLOWED = {"aten._local_scalar_dense": 1}
"""The answer to whether the step was sound; on a GPU that of the step before, which is there already."""
ASKING = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten._unique2"}
INDEXING = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"}


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what would let the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Counter[str]()
        self.on_gpu = dict[int, Any]()  # storages, which are kept: the place of one that is gone would be used again

    def take(self, *tensors: Tensor | None) -> None:
        """Take these tensors for ones on a GPU."""
        for tensor in tensors:
            if tensor is not None:
                self.on_gpu[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    def has(self, tensor: object) -> bool:
        """Whether a tensor is taken for one on a GPU."""
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self.on_gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = str(func).rpartition(".")[0], tree_leaves((args, kwargs))
        there = any(map(self.has, given))
        if there and name in ASKING:
            self.found[name] += 1
        if name in INDEXING and any(
            self.has(one) and one.dtype in (torch.bool, torch.uint8) for one in tree_leaves(args[1])
        ):
            self.found["boolean mask"] += 1
        if name == "aten.copy_" and self.has(args[1]) and not self.has(args[0]):
            self.found["copy to the host"] += 1
        result = func(*args, **(kwargs or {}))
        if there:
            self.take(*(one for one in tree_leaves(result) if isinstance(one, Tensor)))
        return result


def watch_methods(waits: Waits, patch: pytest.MonkeyPatch) -> None:
    """Note the calls that end before any operation is dispatched."""

    def noting(name: str, call: Callable[..., Any], *, always: bool) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            if always or waits.has(args[0]):
                waits.found[name] += 1
            return call(*args, **kwargs)

        return noted

    for name in ("tolist", "cpu", "numpy", "__array__"):
        patch.setattr(Tensor, name, noting(name, getattr(Tensor, name), always=False))
    for holder, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):
        patch.setattr(holder, name, noting(name, getattr(holder, name), always=True))


@dataclass
class Traced:
    """A batch, again and again; what the steps between the first and the last, which is saved, do is noted."""

    batch: Batch
    waits: Waits
    steps_per_epoch: int = 8
    found: list[Counter[str]] = field(default_factory=list)

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batch; watch until the next one is asked for."""
        yield self.batch
        for _ in range(start + 1, stop - 1):
            self.waits.take(self.batch.x_q, self.batch.x_k, self.batch.index)
            self.waits.found = Counter()
            with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
                watch_methods(self.waits, patch)
                stack.enter_context(self.waits)
                yield self.batch
            self.found.append(self.waits.found)
        yield self.batch


@pytest.mark.parametrize("values", [
    {"dictionary": "queue", "precision": "bf16", "init": "torch", "optimizer": "muon"},
    {"dictionary": "memory-bank"},
    {"dictionary": "in-batch", "accumulate": 2},
    {"dictionary": "queue", "symmetric": True, "mask_own_keys": True, "bn_groups": 1, "recompute": True},
    {"dictionary": "queue", "blend": True},
    {"dictionary": "queue", "hard_negatives": 8, "mix": 4, "mix_query": 2},
    {"dictionary": "queue", "optimizer": "adamw"},
    {"dictionary": "queue", "optimizer": "lars", "head": "mlp-bn", "predictor": "mlp-bn", "symmetric": True},
    {"dictionary": "queue", "precision": "fp16"},
], ids=str)  # fmt: skip
@pytest.mark.filterwarnings("ignore:--bn-groups 1:UserWarning")
def test_no_step_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    """Neither with any dictionary or optimiser nor with what mixes keys, views or directions.

    Only fp16 needs a second answer: whether the gradient overflowed, and the step is to be left out.
    """
    overflow = {"aten._local_scalar_dense": 1} if values.get("precision") == "fp16" else {}
    assert trace(tmp_path, monkeypatch, log_every=0, **values) == [Counter(ALLOWED) + Counter(overflow)]


@pytest.mark.parametrize("values", [
    {"dictionary": "queue", "hard_negatives": 8, "mix": 4}, {"dictionary": "memory-bank"},
    {"dictionary": "in-batch", "accumulate": 2, "symmetric": True},
], ids=str)  # fmt: skip
def test_a_logged_step_reads_its_figures_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    """Once, however many parts it has, with the labels of the images too."""
    assert trace(tmp_path, monkeypatch, log_every=1, **values) == [Counter(ALLOWED) + Counter(tolist=1)]


def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> list[Counter[str]]:
    """Train three steps; return what would wait for a GPU in the second."""
    images, waits = load("digits")["train"], Waits()
    config = small(tmp_path, arch="resnet10-w4", batch_size=16, queue_size=32, max_steps=3, **values)
    train = loop.train

    def train_known(config: Any, sides: Any, *others: Any) -> dict[str, Any]:
        (side,) = sides
        waits.take(*side.pair.parameters(), *side.pair.buffers(), *side.dictionary.buffers())
        return train(config, sides, *others)

    monkeypatch.setattr(loop, "train", train_known)
    traced = Traced(build_batches(resolve_config(config, images), images)[0], waits)
    pretrain(config, images, batches=traced)
    assert len(waits.on_gpu) > 100
    return traced.found


def test_a_bank_that_is_cut_over_ranks_does_not_wait() -> None:
    """Neither where rows are fetched nor where they are written."""
    bank, waits = MemoryBank(10, 4, negatives=2), Waits()
    bank.sharded, bank.rows = {"features": 10}, range(3, 7)
    bank.features = bank.features[3:7].clone()
    q, index = torch.randn(3, 4), torch.tensor([5, 0, 6])
    waits.take(bank.features, q, index)
    with pytest.MonkeyPatch.context() as patch, waits:
        watch_methods(waits, patch)
        fetch(bank.features, bank.rows, index)
        bank.write(q, None, index)
    assert not waits.found


@pytest.mark.parametrize(("ask", "name"), [
    (lambda x: float(x.sum()), "aten._local_scalar_dense"), (lambda x: x.tolist(), "tolist"),
    (lambda x: x[x > 0], "boolean mask"), (lambda x: (x > 0).nonzero(), "aten.nonzero"),
    (lambda x: torch.empty(3).copy_(x), "copy to the host"), (lambda x: x.cpu(), "cpu"),
    (lambda x: x + torch.tensor(2.0), "tensor"), (lambda x: x.__setitem__(x > 0, 1.0), "boolean mask"),
    (lambda x: x[x.argmax()], "aten._local_scalar_dense"), (lambda x: x.masked_select(x > 0), "aten.masked_select"),
])  # fmt: skip
def test_the_watch_sees_each_kind(ask: Callable[[Tensor], object], name: str) -> None:
    """Of what a GPU computed, not of the host's own tensors."""
    x, own, waits = torch.randn(3), torch.randn(3), Waits()
    waits.take(x)
    with pytest.MonkeyPatch.context() as patch, waits:
        watch_methods(waits, patch)
        ask(x * 2)
        found = dict(waits.found)
        if name != "tensor":
            ask(own * 2)
    assert found.get(name) == 1, found
    assert dict(waits.found) == found
