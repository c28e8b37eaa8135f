"""Two processes against one: the collectives, and the whole step with each dictionary.

The processes are started once; each leaves what it found in a file, and the tests read the files.
"""

import functools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moco.core.dictionary import Dictionary, InBatch, Mechanism, MemoryBank, Queue
from moco.core.encoder import Encoder, EncoderPlan
from moco.core.loss import info_nce
from moco.core.pair import EncoderPair
from moco.runtime import distributed
from moco.runtime.exchange import exchange
from moco.runtime.signals import StopRequest
from tests.faults.processes import ended_well, start_program

RANKS, BATCH, BN_GROUPS, STEPS = 2, 16, 4, 2
TINY = EncoderPlan(arch="resnet10-w4", stem="cifar", feature_dim=8, image_size=16)
PERMUTATION = torch.tensor([7, 2, 0, 6, 1, 3, 4, 5])
"""Rank 1 gets three rows of rank 0's and one of its own."""

Results = dict[str, Tensor]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    ended_well(start_program(functools.partial(session, folder), folder, ranks=RANKS))
    return [load_file(folder / f"{rank}.safetensors") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def alone() -> Results:
    """What one process finds for the same global batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        results = dict(training())
    torch.set_num_threads(threads)
    return results


def session(folder: Path) -> None:
    """Everything that one of the processes does."""
    torch.set_num_threads(1)
    distributed.join_processes("cpu")
    rank = distributed.rank()
    results = dict((*collectives(), *training(), *stop_request()))
    distributed.barrier()
    distributed.leave_processes()
    save_file({name: value.detach().contiguous() for name, value in results.items()}, folder / f"{rank}.safetensors")


def rows(count: int) -> Tensor:
    """A global batch whose every number tells where it was, (count, 3)."""
    return torch.arange(count * 3.0).reshape(count, 3)


def collectives() -> Iterator[tuple[str, Tensor]]:
    """Each collective, on this rank's block of a known global batch."""
    yield "place", torch.tensor([distributed.rank(), distributed.world_size()])
    own = distributed.local_block(rows(8))
    yield "local_block", own
    yield "gather", distributed.gather(own.requires_grad_())
    pixels = own.detach().view(4, 3, 1, 1).expand(4, 3, 2, 2)
    yield "gather_channels_last", distributed.gather(pixels.contiguous(memory_format=torch.channels_last))
    yield "mean", distributed.mean(own)

    gathered = distributed.gather_with_gradient(own)
    yield "gathered", gathered
    weights = rows(8) * (distributed.rank() + 1)
    torch.autograd.backward(gathered.pow(2), weights)
    assert own.grad is not None
    yield "gathered_grad", own.grad

    exchanged = exchange(own.detach(), PERMUTATION)
    yield "exchanged", exchanged
    yield "restored", exchange(exchanged, torch.argsort(PERMUTATION))
    everything_goes = exchange(own.detach(), torch.arange(8).roll(4))
    yield "swapped", everything_goes

    norm = torch.nn.BatchNorm2d(2)
    norm.get_buffer("running_mean").fill_(distributed.rank() + 1.0)
    norm.get_buffer("num_batches_tracked").fill_(7)
    with distributed.average_statistics(norm):
        yield "running_mean", norm.get_buffer("running_mean").clone()
        yield "num_batches_tracked", norm.get_buffer("num_batches_tracked").clone()
    yield "own_running_mean", norm.get_buffer("running_mean")


def training() -> Iterator[tuple[str, Tensor]]:
    """Two steps of the method with each dictionary, on this rank's block of the global batch."""
    for mechanism in get_args(Mechanism):
        torch.manual_seed(0)
        encoder = Encoder(TINY)
        encoder.set_bn_group_size(BATCH // BN_GROUPS)
        pair = EncoderPair(encoder, mechanism, seed=3)
        pair.f_q = distributed.wrap(pair.f_q)
        dictionary = build(mechanism)
        optimizer = torch.optim.SGD(pair.f_q.parameters(), lr=0.03, momentum=0.9)
        for step in range(STEPS):
            everything = torch.randn(2, BATCH, 3, 16, 16)
            index = distributed.local_block(torch.arange(BATCH) * 2 + step)
            x_q, x_k = (distributed.local_block(x) for x in everything)
            q, k = pair(x_q, x_k, pair.keys(x_k, step), step)
            keys = dictionary.read(k, index)
            loss, accuracy = info_nce(q, keys, 0.2)
            torch.autograd.backward(loss)
            where = f"{mechanism} {step}"
            yield f"{where} block q", q
            yield f"{where} block k", keys.positive
            yield f"{where} loss", distributed.mean(loss)
            yield f"{where} accuracy", distributed.mean(accuracy)
            for name, parameter in encoder.named_parameters():
                assert parameter.grad is not None
                yield f"{where} gradient {name}", parameter.grad.clone()
            optimizer.step()
            optimizer.zero_grad()
            pair.update(0.9)
            dictionary.write(q, k, index)
            for name, value in dictionary.state_dict().items():
                yield f"{where} dictionary {name}", value.clone()
        with distributed.average_statistics(pair):
            for number, value in enumerate(pair.buffers()):
                yield f"{mechanism} buffer {number}", value.clone()


def build(mechanism: Mechanism) -> Dictionary:
    """A small dictionary; neither size is a multiple of the batch."""
    if mechanism == "queue":
        return Queue(24, 8, mask_own=True, seed=1)
    return MemoryBank(40, 8, negatives=10, seed=1) if mechanism == "memory-bank" else InBatch()


def stop_request() -> Iterator[tuple[str, Tensor]]:
    """Only the second rank is asked to stop."""
    with StopRequest() as request:
        before = distributed.on_any_rank(request.noted)[0]
        if distributed.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        yield "stop", torch.tensor([before, distributed.on_any_rank(request.noted)[0]])


# --- collectives ----------------------------------------------------------------------------------------------------


def test_ranks_know_their_place(ranks: list[Results]) -> None:
    """Each has its number, and takes the block of that number."""
    assert [found["place"].tolist() for found in ranks] == [[0, 2], [1, 2]]
    assert torch.equal(torch.cat([found["local_block"] for found in ranks]), rows(8))


def test_gather_is_in_the_order_of_the_ranks(ranks: list[Results]) -> None:
    """Every rank gets the whole batch in order, whatever the memory layout."""
    for found in ranks:
        assert torch.equal(found["gather"], rows(8))
        assert torch.equal(found["gathered"], rows(8))
        assert torch.equal(found["gather_channels_last"], rows(8).view(8, 3, 1, 1).expand(8, 3, 2, 2))


def test_gather_with_gradient_returns_every_ranks_gradient(ranks: list[Results]) -> None:
    """A row's gradient is the sum over the ranks' losses: 2 x (w_0 + w_1) for sum w_r x^2 (integers, so exact)."""
    gradient = torch.cat([found["gathered_grad"] for found in ranks])
    assert torch.equal(gradient, 2 * rows(8) * (rows(8) * 1 + rows(8) * 2))


def test_exchange_is_the_global_permutation(ranks: list[Results]) -> None:
    """Together the ranks hold the permuted batch, and the inverse restores it; all rows may change sides."""
    assert torch.equal(torch.cat([found["exchanged"] for found in ranks]), rows(8)[PERMUTATION])
    assert torch.equal(torch.cat([found["restored"] for found in ranks]), rows(8))
    assert torch.equal(torch.cat([found["swapped"] for found in ranks]), rows(8).roll(4, dims=0))


def test_mean_is_over_the_ranks(ranks: list[Results]) -> None:
    """Every rank gets the mean."""
    for found in ranks:
        assert torch.equal(found["mean"], (rows(8)[:4] + rows(8)[4:]) / 2)


def test_averaged_takes_running_statistics_only(ranks: list[Results]) -> None:
    """Floating-point buffers are their mean for a while; the count of batches is left, and afterwards all are."""
    for rank, found in enumerate(ranks):
        assert found["own_running_mean"].tolist() == [rank + 1.0] * 2
        assert found["running_mean"].tolist() == [1.5, 1.5]
        assert found["num_batches_tracked"] == 7


def test_all_ranks_agree_to_stop(ranks: list[Results]) -> None:
    """A signal to one rank stops all at the same step."""
    assert [found["stop"].tolist() for found in ranks] == [[False, True], [False, True]]


# --- the method -----------------------------------------------------------------------------------------------------

every_mechanism = pytest.mark.parametrize("mechanism", get_args(Mechanism))


def assert_close(found: Tensor, expected: Tensor, name: str) -> None:
    """Equal within 1e-5: fp32 whose sums over the batch are taken in another order."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=lambda differences: f"{name}: {differences}")


def compared(alone: Results, mechanism: Mechanism, what: str) -> list[str]:
    """The names of the results of one kind."""
    names = [name for name in alone if name.startswith(mechanism) and what in name]
    assert names
    return names


@every_mechanism
def test_two_ranks_give_the_same_features(ranks: list[Results], alone: Results, mechanism: Mechanism) -> None:
    """The q and k of the ranks' blocks together are those of one process with as many BN groups."""
    for name in compared(alone, mechanism, " block "):
        assert_close(torch.cat([found[name] for found in ranks]), alone[name], name)


@every_mechanism
def test_two_ranks_give_the_same_loss(ranks: list[Results], alone: Results, mechanism: Mechanism) -> None:
    """The mean over the ranks is the loss of the global batch, and so is the accuracy."""
    for name in (*compared(alone, mechanism, " loss"), *compared(alone, mechanism, " accuracy")):
        for found in ranks:
            assert_close(found[name], alone[name], name)


@every_mechanism
def test_two_ranks_give_the_same_gradient(ranks: list[Results], alone: Results, mechanism: Mechanism) -> None:
    """The averaged gradient is that of the global batch (relative to its own size where that is above 1)."""
    for name in compared(alone, mechanism, " gradient "):
        scale = alone[name].abs().max().clamp(min=1)
        for found in ranks:
            assert_close(found[name] / scale, alone[name] / scale, name)
    assert max(alone[name].abs().max() for name in compared(alone, mechanism, " gradient ")) > 0.1


@pytest.mark.parametrize("mechanism", ["queue", "memory-bank"])
def test_two_ranks_give_the_same_dictionary(ranks: list[Results], alone: Results, mechanism: Mechanism) -> None:
    """Every rank holds the same keys in the same places as one process."""
    for name in compared(alone, mechanism, " dictionary "):
        for found in ranks:
            assert_close(found[name], alone[name], name)
        assert torch.equal(ranks[0][name], ranks[1][name])


@every_mechanism
def test_two_ranks_give_the_same_running_statistics(ranks: list[Results], alone: Results, mechanism: Mechanism) -> None:
    """Averaged over the ranks, the running statistics are those of all groups."""
    for name in compared(alone, mechanism, " buffer "):
        for found in ranks:
            assert_close(found[name], alone[name], name)


# --- one process ----------------------------------------------------------------------------------------------------


def test_one_process_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun nothing is started, and every collective is the identity."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.join_processes("cpu")
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    x, layer = rows(8), torch.nn.Linear(2, 2)
    for collective in (distributed.gather, distributed.gather_with_gradient, distributed.local_block, distributed.mean):
        assert torch.equal(collective(x), x)
    assert torch.equal(exchange(x, PERMUTATION), x[PERMUTATION])
    assert distributed.wrap(layer) is layer
    assert distributed.unwrap(layer) is layer
    distributed.barrier()
    distributed.leave_processes()


@pytest.mark.parametrize("rows", [range(3, 7), range(0, 10), range(10, 10)])
def test_rows_that_others_hold_are_zeros(rows: range) -> None:
    """What this rank adds to the sum: its own rows in their places."""
    table, wanted = torch.randn(10, 2, 3), torch.tensor([9, 3, 0, 6, 3])
    expected = torch.stack([table[row] if row in rows else torch.zeros(2, 3) for row in wanted.tolist()])
    assert torch.equal(distributed.fetch(table[rows.start : rows.stop], rows, wanted), expected)


def test_the_hosts_meet_without_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier goes where the flags of the hosts go: NCCL's would wait for the GPU, and warn that it guesses which."""
    met = list[object]()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "_hosts", "the hosts' group")
    monkeypatch.setattr(torch.distributed, "barrier", lambda group=None: met.append(group))
    distributed.barrier()
    assert met == ["the hosts' group"]
