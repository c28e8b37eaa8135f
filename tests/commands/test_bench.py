"""`moco bench`: what can be asked for, and a small round of every measurement."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from moco.bench import dictionary, loop, peak, photographs, views
from moco.bench.cases import TRAININGS
from moco.bench.config import BenchConfig
from moco.cli import main
from moco.commands import bench as command
from moco.commands.bench import MEASUREMENTS, select_measurements
from moco.data.loader import ViewBatches
from moco.errors import BadInputError
from moco.pretraining.timing import ReadyBatches

TINY = BenchConfig(seconds=0.01, threads=1, device="cpu")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Threads are put back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_what_is_selected_comes_in_one_order() -> None:
    """Everything by default; blanks and doubles do not matter."""
    assert select_measurements(None) == list(MEASUREMENTS)
    assert select_measurements("views, peak,views") == ["peak", "views"]


@pytest.mark.parametrize(
    ("only", "message"),
    [("peek", "did you mean peak"), ("peak,qqq", "qqq is not measured"), (" ,", "expected some of")],
)
def test_unknown_measurements_are_refused(only: str, message: str) -> None:
    """Naming what there is."""
    with pytest.raises(BadInputError, match=message):
        select_measurements(only)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--only", "step,vews"], "did you mean views"), (["--seconds", "0"], "--seconds is 0"), (["--fast"], "--fast")],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """And exit code 2, before anything is measured."""
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_steps_and_the_loops_around_them_follow_one_another() -> None:
    """They are compared, and the machine's mood changes; every case of what is asked for comes once."""
    jobs = list(command._in_turn(list(MEASUREMENTS), {}))
    assert sorted(jobs) == sorted((name, case) for name, (_, cases) in MEASUREMENTS.items() for case in cases)
    for case in TRAININGS:
        assert jobs.index(("end-to-end", case)) == jobs.index(("step", case)) + 1
    assert list(command._in_turn(["end-to-end"], {})) == [("end-to-end", case) for case in TRAININGS]


def test_on_a_gpu_every_precision_has_a_peak() -> None:
    """A step's share of it is to be known in each; the first peak says that there is a GPU."""
    about: dict[str, str] = {}
    jobs = command._in_turn(["peak"], about)
    found = [next(jobs)[1]]
    about["gpu"] = "H100"
    assert found + [case for _, case in jobs] == ["fp32", "bf16", "fp16", "tf32"]


@pytest.mark.filterwarnings("ignore:the queue holds")
def test_a_step_is_timed_on_a_batch_that_is_on_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run would have it there: copies of a batch that is not would count as part of the step."""
    monkeypatch.setattr(photographs, "PATCH_COUNT", 600)
    monkeypatch.setattr(photographs, "JPEG_COUNT", 1)
    photographs.write_photographs(TINY, tmp_path, "")
    there, timed = object(), list[object]()
    monkeypatch.setattr(ViewBatches, "run", lambda batches, start, stop, workers: iter([there]))
    monkeypatch.setattr(ViewBatches, "__getitem__", lambda batches, step: None)

    def time_training(training: object, images: object, seconds: float, ready: ReadyBatches) -> dict[str, float]:
        timed.append(ready.batch)
        return {"images_per_second": 1.0}

    monkeypatch.setattr(loop, "time_training", time_training)
    loop.measure_step(TINY, tmp_path, "resnet18-3x3-stem-32")
    assert timed == [there]


def test_a_small_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak, dictionary and views give figures above 0."""
    monkeypatch.setattr(peak, "SIZES", (16, 32))
    monkeypatch.setattr(dictionary, "QUEUE_SIZES", (256, 512))
    monkeypatch.setattr(photographs, "PATCH_COUNT", 300)
    monkeypatch.setattr(photographs, "JPEG_COUNT", 1)
    photographs.write_photographs(TINY, tmp_path, "")
    for precision in ("fp32", "bf16", "fp16", "tf32"):
        assert peak.measure_peak(TINY, tmp_path, precision)["gflops"] > 0
    cost = dictionary.measure_dictionary(TINY, tmp_path, "batch-32")["milliseconds"]
    assert list(cost) == ["256", "512"]
    assert min(cost.values()) > 0
    found = views.measure_views(TINY, tmp_path, "cifar-32-memory")
    assert found["views_per_second_per_core"] > 0
    assert found["views"] >= 512


def test_the_command_ends_with_one_object(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard output; the table goes elsewhere."""
    monkeypatch.setitem(MEASUREMENTS, "peak", (MEASUREMENTS["peak"][0], ("fp32",)))
    assert main(["bench", "--only", "peak", "--seconds", "0.01", "--threads", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert set(result) == {"machine", "peak", "verdict", "caution"}
    for row in result["peak"].values():
        assert row["gflops"] > 0
        assert row["peak_memory_mib"] > 50
    assert "GFLOP/s" in err
