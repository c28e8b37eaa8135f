"""One, two and four processes are the same computation: real runs of `pretrain`.

In float64 all steps agree within 1e-9, 50 with a queue and 12 with every other dictionary; in float32 the first three
within 1e-4.
"""

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.scaling import Job, payload
from moco.pretraining.loop import pretrain
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from moco.runtime.randomness import Stream, permute
from tests.distributed.session import (
    BATCH,
    CASES,
    FEWER,
    FP32,
    HALF,
    IMAGES,
    QUEUE,
    RESUMED,
    SHARDED,
    SMALL,
    STEPS,
    WEIGHTS,
    WRONG_GROUPS,
    config_of,
    global_batches,
    images,
    session,
    take_up_session,
)
from tests.faults.processes import ended_well, start_program
from tests.pretraining.algorithm_1 import Found, Weights, algorithm_1, named
from tests.slow import slow

EARLIER = {1: None, 2: 1, 4: 1}
"""Numbers of processes, and from which session each takes up a run in its middle."""
TOLERANCE = 1e-9
"""Float64's rounding, 1e-16, grows by 50 steps of training; what is compared is of the order of 1."""


class Sessions(dict[int, Path]):
    """The folders of the sessions, by their number of processes; each is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        pretrain(config_of(folder / WEIGHTS, dictionary="queue", max_steps=1), images())

    def __missing__(self, ranks: int) -> Path:
        earlier = EARLIER[ranks]
        before = self[earlier] if earlier is not None else None
        self[ranks] = self.folder / str(ranks)
        self[ranks].mkdir()
        program = functools.partial(session, self[ranks], before)
        ended_well(start_program(program, self[ranks], ranks=ranks))
        return self[ranks]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    """The sessions that the tests ask for."""
    return Sessions(tmp_path_factory.mktemp("sessions"))


def lines(run: Path, key: str) -> list[dict[str, Any]]:
    """The lines of metrics that have a key."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if key in line]


def column(run: Path, name: str) -> list[float]:
    """A figure of every step."""
    return [float(line[name]) for line in lines(run, "loss")]


def state(run: Path, step: int = STEPS) -> dict[str, Tensor]:
    """What a checkpoint holds, without what each number of processes has of its own."""
    tensors, _ = load_tensors(checkpoint_path(run, step))
    return {name: value for name, value in tensors.items() if not name.startswith("ranks.") and name != "random"}


def steps_of(case: str) -> int:
    """How many steps a case has."""
    return int(CASES[case].get("max_steps", STEPS))


def found_by(sessions: Sessions, ranks: int) -> list[dict[str, Any]]:
    """What else each process found."""
    return [json.loads((sessions[ranks] / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest between two sets of tensors, relative to a tensor's largest number where that is above 1."""
    assert one.keys() == other.keys()
    largest = 0.0
    for name, value in one.items():
        assert value.shape == other[name].shape, name
        if value.numel():
            scale = max(1.0, float(value.abs().max()))
            largest = max(largest, float((value.double() - other[name].double()).abs().max()) / scale)
    return largest


several = pytest.mark.parametrize("ranks", [2, slow(4)])
every_case = pytest.mark.parametrize("case", CASES)

# --- equality -------------------------------------------------------------------------------------------------------


@several
@every_case
def test_every_step_is_equal_in_float64(sessions: Sessions, case: str, ranks: int) -> None:
    """Losses and gradient norms of every step; at the end weights, momenta, statistics, queue or bank."""
    one, other = sessions[1] / case, sessions[ranks] / case
    assert len(column(one, "loss")) == steps_of(case)
    for name in ("loss", "gradient_norm"):
        expected = pytest.approx(column(one, name), rel=TOLERANCE, abs=TOLERANCE)
        assert column(other, name) == expected
    last = state(one, steps_of(case))
    assert last["f_q.head.weight"].dtype == torch.float64
    assert difference(last, state(other, steps_of(case))) <= TOLERANCE


@several
def test_v3_is_equal_in_float64(sessions: Sessions, ranks: int) -> None:
    """Six steps whose negatives are the keys of all processes' images, by AdamW, with both heads' norms in groups."""
    one, other = sessions[1] / "v3", sessions[ranks] / "v3"
    for name in ("loss", "gradient_norm"):
        assert column(other, name) == pytest.approx(column(one, name), rel=TOLERANCE, abs=TOLERANCE)
    assert difference(state(one, 6), state(other, 6)) <= TOLERANCE
    assert abs(column(one, "loss")[0] - column(one, "loss")[-1]) > 1e-2


@every_case
def test_the_steps_do_something(sessions: Sessions, case: str) -> None:
    """Equality says something: weights and what the dictionary holds have moved by far more than the tolerance."""
    middle, last = (state(sessions[1] / case, step) for step in (steps_of(case) // 2, steps_of(case)))
    assert (middle["f_q.head.weight"] - last["f_q.head.weight"]).abs().max() > 1e-3
    for stored in ("dictionary.keys", "dictionary.features"):
        if stored in last:
            assert (middle[stored] - last[stored]).abs().max() > 1e-2


@several
def test_a_wrong_number_of_groups_is_noticed(sessions: Sessions, ranks: int) -> None:
    """The comparison above fails at once where one process normalises in two groups and not in four."""
    wrong, right = column(sessions[1] / WRONG_GROUPS, "loss"), column(sessions[ranks] / "queue", "loss")
    assert abs(wrong[0] - right[0]) > 1e-4
    assert wrong != pytest.approx(right, rel=1e-3)
    assert difference(state(sessions[1] / WRONG_GROUPS), state(sessions[ranks] / "queue")) > 1e-3


@several
def test_float32_agrees_while_rounding_is_small(sessions: Sessions, ranks: int) -> None:
    """The first three steps, within 1e-4."""
    one, other = (column(sessions[number] / FP32, "loss") for number in (1, ranks))
    assert len(one) == 3
    assert other == pytest.approx(one, abs=1e-4, rel=0)


@several
def test_a_sharded_bank_is_the_whole_bank(sessions: Sessions, ranks: int) -> None:
    """Cut over the processes or not, it is the same; and a checkpoint holds all of it, in the images' order."""
    sharded, whole = (state(sessions[ranks] / case, FEWER) for case in (SHARDED, "memory-bank"))
    assert sharded["dictionary.features"].shape == (IMAGES, SMALL["feature_dim"])
    assert difference(sharded, whole) <= TOLERANCE


@pytest.mark.parametrize(("ranks", "earlier"), [(2, 1), (1, 2), slow(4, 1), slow(2, 4)])
def test_a_sharded_bank_goes_on_over_another_number_of_processes(
    sessions: Sessions, tmp_path: Path, ranks: int, earlier: int
) -> None:
    """More or fewer than before: the second half is that of the run that never stopped."""
    resumed, undisturbed = sessions[ranks] / RESUMED, sessions[1] / SHARDED
    if EARLIER[ranks] != earlier:
        program = functools.partial(take_up_session, tmp_path, sessions[earlier])
        ended_well(start_program(program, tmp_path, ranks=ranks))
        resumed = tmp_path / RESUMED
    assert [line["step"] for line in lines(resumed, "event") if line["event"] == "resume"] == [HALF]
    assert column(resumed, "loss")[HALF:] == pytest.approx(column(undisturbed, "loss")[HALF:], abs=TOLERANCE)
    trained = {name: value for name, value in state(resumed, FEWER).items() if ".running_" not in name}
    expected = {name: value for name, value in state(undisturbed, FEWER).items() if ".running_" not in name}
    assert difference(trained, expected) <= TOLERANCE


@pytest.mark.parametrize("ranks", [1, 2, slow(4)])
def test_a_table_is_cut_dealt_collected_and_read(sessions: Sessions, ranks: int) -> None:
    """Every row lies on one rank, in order; the first gets the whole; each gets the rows that it asks for."""
    found = [process["tables"] for process in found_by(sessions, ranks)]
    whole = torch.arange(10.0).reshape(5, 2).tolist()
    assert [row for process in found for row in process["own"]] == whole
    assert len(found[-1]["own"]) == {1: 5, 2: 2, 4: 0}[ranks]
    assert all(process["dealt"] == process["own"] for process in found)
    assert [process["collected"] for process in found] == [whole, *[[]] * (ranks - 1)]
    assert all(process["fetched"] == [whole[4], whole[0], whole[3], whole[3]] for process in found)


# --- shares ---------------------------------------------------------------------------------------------------------


@several
@every_case
def test_shares_are_logged_and_disjoint(sessions: Sessions, case: str, ranks: int) -> None:
    """Every rank tells its place and its rows; together they are the batch that one process would take."""
    events = [line for line in lines(sessions[ranks] / case, "event") if line["event"] == "ranks"]
    assert len(events) == 1
    reported = events[0]["ranks"]
    assert len({(rank["host"], rank["pid"]) for rank in reported}) == ranks
    rows = [row for rank in reported for row in range(*rank["rows"])]
    assert rows == list(range(BATCH))
    expected = permute(range(BATCH), IMAGES, seed=0, stream=Stream.ORDER, epoch=0).tolist()
    for rank in reported:
        begin, end = rank["rows"]
        assert rank["first"] == expected[begin:end][:8]
    seen = [image for rank in reported for image in rank["first"]]
    assert len(set(seen)) == len(seen)
    assert set(seen) == set(expected)


def test_one_process_tells_of_no_shares(sessions: Sessions) -> None:
    """There is nothing to share."""
    assert not lines(sessions[1] / "queue", "event")


@several
def test_unequal_data_ends_every_process_with_one_error(sessions: Sessions, ranks: int) -> None:
    """All say the same, at once, and none waits for the others."""
    counts = ", ".join(f"{IMAGES - rank} on process {rank}" for rank in range(ranks))
    for found in found_by(sessions, ranks):
        assert found["unequal data"] == (
            f"the number of images must be the same on every process, and is {counts}: "
            f"start all with the same command and data"
        )
    assert not (sessions[ranks] / "unequal").exists()


@several
def test_unequal_flags_end_every_process_with_one_error(sessions: Sessions, ranks: int) -> None:
    """The error names the flag."""
    for found in found_by(sessions, ranks):
        assert found["unequal flags"].startswith("--lr must be the same on every process, and is 0.1 on process 0, 0.2")


@several
def test_ranks_that_disagree_on_whitening_end_alike(sessions: Sessions, ranks: int) -> None:
    """The first one decides: none waits for others that have nothing to save."""
    for found in found_by(sessions, ranks):
        assert found["whitened"] == [{"rows": 3}, None]


@several
def test_a_step_sends_what_scaling_on_paper_says(sessions: Sessions, ranks: int) -> None:
    """The bytes given to the collectives of three steps, in their order; those of gradients are torch's own."""
    net = state(sessions[ranks] / FP32, 3)
    parameters = sum(net[name].numel() for name in net if name.startswith("sgd."))
    job = Job(ranks, BATCH, parameters, SMALL["feature_dim"], QUEUE, SMALL["image_size"])
    paper = payload(job)
    for found in found_by(sessions, ranks):
        assert found["sent"]["all_to_all_single"] == [paper["images"], paper["keys back"]] * 3
        assert found["sent"]["all_gather"][:6] == [paper["keys"], paper["indices"]] * 3
        assert found["sent"]["all_reduce"][:6:2] == [paper["flags"]] * 3
        means = ("loss", "accuracy", "gradient_norm", "effective_negatives", "hardest_weight")
        of_labels = ("false_negatives", "false_negative_weight")  # unknown until the queue has keys of images
        assert found["sent"]["all_reduce"][1:6:2] == [4 * len(means + of_labels)] * 3  # one collective for each line
    assert paper["gradients"] == 4 * sum(
        net[name].numel() for name in net if name.startswith("f_k.") and is_trained(name)
    )


@several
def test_gradients_travel_once_a_step(sessions: Sessions, ranks: int) -> None:
    """Where both directions in two parts add them up: four backward passes, and the losses of one process."""
    other, one = sessions[ranks] / "parts", sessions[1] / "parts"
    net = state(other, 2)
    parameters = sum(net[name].numel() for name in net if name.startswith("f_k.") and is_trained(name))
    for found in found_by(sessions, ranks):
        assert sum(found["averaged"]) == 2 * parameters
    for name in ("loss", "gradient_norm"):
        assert column(other, name) == pytest.approx(column(one, name), rel=TOLERANCE)
    trained, expected = ({n: v for n, v in of.items() if ".running_" not in n} for of in (net, state(one, 2)))
    assert difference(expected, trained) <= TOLERANCE


def is_trained(name: str) -> bool:
    """Whether a tensor is a parameter and not a statistic."""
    return name.endswith((".weight", ".bias"))


# --- Algorithm 1 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Two devices, by plain loops."""
    config = config_of(tmp_path_factory.mktemp("oracle"), dictionary="queue")
    views = [(x_q, x_k, index) for x_q, x_k, index, _ in global_batches(config, STEPS) if x_k is not None]
    torch.set_default_dtype(torch.float64)
    try:
        return algorithm_1(config, views, devices=2)
    finally:
        torch.set_default_dtype(torch.float32)


def test_two_ranks_have_the_losses_of_algorithm_1(sessions: Sessions, oracle: Found) -> None:
    """All of 50 steps, in which the queue is replaced eleven times."""
    assert len(oracle.losses) == STEPS
    assert column(sessions[2] / "queue", "loss") == pytest.approx(oracle.losses, abs=TOLERANCE, rel=0)
    assert math.isfinite(oracle.losses[-1])


def test_two_ranks_have_the_queue_of_algorithm_1(sessions: Sessions, oracle: Found) -> None:
    """The same keys of the same images in the same order, oldest first."""
    found = state(sessions[2] / "queue")
    writes, oldest = found["dictionary._extra_state"].tolist()
    assert (writes, oldest) == (STEPS, STEPS * BATCH % QUEUE)
    keys, images = found["dictionary.keys"].roll(-oldest, dims=0), found["dictionary.index"].roll(-oldest)
    assert images.tolist() == [image for _, image in oracle.queue]
    torch.testing.assert_close(keys, torch.stack([key for key, _ in oracle.queue]), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["f_q", "f_k"])
def test_two_ranks_have_the_weights_of_algorithm_1(sessions: Sessions, oracle: Found, name: str) -> None:
    """Both encoders, parameter by parameter."""
    expected: Weights = getattr(oracle, name)
    found = named(state(sessions[2] / "queue"), f"{name}.")
    for parameter, value in expected.items():
        torch.testing.assert_close(found[parameter], value, rtol=0, atol=TOLERANCE, msg=parameter)
