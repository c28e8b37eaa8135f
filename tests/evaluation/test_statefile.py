"""A training on labels that is stopped goes on: the figures are those of one that was never stopped."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.cli import main
from moco.data.loader import ViewBatches
from moco.evaluation import statefile
from moco.runtime.checkpoint import load_tensors, save_tensors
from moco.runtime.run import Run
from tests.slow import slow

pytestmark = pytest.mark.usefixtures("few_digits")
CPU = ["--data", "digits", "--device", "cpu", "--precision", "fp32", "--threads", "1", "--json"]
COMMANDS = {
    "linear-paper": [
        "linear", "--protocol", "paper", "--epochs", "2", "--batch-size", "96", "--lr", "0.3", "--no-baseline",
    ],
    "finetune": ["finetune", "--max-steps", "8", "--batch-size", "32", "--baseline", "random"],
}  # fmt: skip
Evaluate = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run of its own, to be evaluated."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def run_command(run: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Evaluate the run (or other weights): exit code, and the JSON object if there is one."""

    def evaluate(command: str, *more: str, weights: Path = run) -> tuple[int, dict[str, Any]]:
        code = main([*COMMANDS[command], "--weights", str(weights), *CPU, *more])
        return code, json.loads(capsys.readouterr().out or "{}")

    return evaluate


@pytest.fixture
def at_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Let something happen once, while a batch is trained on."""
    once = ViewBatches.run

    def happening(number: int, what: Callable[[], None]) -> None:
        left = iter([*[None] * (number - 1), what])

        def watched(self: ViewBatches, *arguments: Any) -> Iterator[Any]:
            for batch in once(self, *arguments):
                happens = next(left, None)
                if happens is not None:
                    happens()
                yield batch

        monkeypatch.setattr(ViewBatches, "run", watched)

    return happening


def terminate() -> None:
    """As a scheduler does."""
    signal.raise_signal(signal.SIGTERM)


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock."""
    kept_figures = {name: value for name, value in result.items() if not name.startswith("seconds")}
    kept_figures["baselines"] = {name: figures(value) for name, value in result.get("baselines", {}).items()}
    return kept_figures


def predicted(run: Path, command: str) -> list[int]:
    """The classes that a run's evaluation took the test images for."""
    found: list[int] = json.loads((run / "evaluations" / f"{command}.json").read_text())["predicted"]
    return found


def left_over(run: Path) -> list[str]:
    """The states of trainings in a run."""
    return sorted(path.name for path in (run / "evaluations").glob(f"*{statefile.ENDING}"))


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, tuple[dict[str, Any], list[int]]]:
    """The figures and predictions of each command that was not stopped, once a test has made them."""
    return {}


@pytest.mark.parametrize(
    ("command", "batch", "file"),
    [
        ("linear-paper", 3, "linear-paper"),  # in the first epoch
        slow("linear-paper", 10, "linear-paper"),  # the last batch
        ("finetune", 3, "finetune"),
        ("finetune", 11, "finetune-scratch"),  # of the baseline
    ],
)
def test_a_stopped_training_goes_on(
    command: str, batch: int, file: str, run: Path, run_command: Evaluate, tmp_path: Path, tiny_run: Path,
    at_batch: Callable[[int, Callable[[], None]], None], undisturbed: dict[str, tuple[dict[str, Any], list[int]]],
) -> None:  # fmt: skip
    """Saved with exit code 75 after the step, and bit for bit the figures of another run that was not stopped."""
    if command not in undisturbed:
        other = Path(shutil.copytree(tiny_run, tmp_path / "other" / "run"))
        code, found = run_command(command, weights=other)
        assert code == 0
        undisturbed[command] = found, predicted(other, command)
    whole, classes = undisturbed[command]
    at_batch(batch, terminate)
    code, nothing = run_command(command)
    assert (code, nothing) == (75, {})
    assert left_over(run) == [file + statefile.ENDING]
    code, result = run_command(command)
    assert code == 0
    assert left_over(run) == []
    ours = {"weights", "backbone"}
    assert {name: value for name, value in figures(result).items() if name not in ours} == {
        name: value for name, value in figures(whole).items() if name not in ours
    }
    assert predicted(run, command) == classes


def test_the_message_says_what_to_do(
    run: Path, at_batch: Callable[[int, Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, at once, while the third batch is made."""
    at_batch(3, terminate)
    assert main([*COMMANDS["linear-paper"], "--weights", str(run), *CPU]) == 75
    said = "moco: error: linear-paper: stopped after step 2 of 10, saved: continue with the same command"
    assert said in capsys.readouterr().err.splitlines()


def test_a_crash_costs_what_was_not_saved(
    run: Path,
    run_command: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    at_batch: Callable[[int, Callable[[], None]], None],
) -> None:
    """States are written while it trains; the next command takes up the last, with the time that it took."""
    monkeypatch.setattr(statefile, "SAVE_EVERY", -1.0)

    def crash() -> None:
        raise FloatingPointError("crash")

    at_batch(5, crash)
    with pytest.raises(FloatingPointError):
        run_command("linear-paper")
    path = run / "evaluations" / f"linear-paper{statefile.ENDING}"
    facts = load_tensors(path)[1]
    assert facts["step"] == 4
    done: list[int] = []
    once = Run.advance

    def advance(self: Run, step: int) -> None:
        done.append(step)
        assert self.log.earlier == facts["seconds"]
        once(self, step)

    monkeypatch.setattr(Run, "advance", advance)
    code, result = run_command("linear-paper")
    assert (code, done) == (0, [5, 6, 7, 8, 9, 10])
    assert result["seconds"] > facts["seconds"]


@pytest.mark.filterwarnings("always")  # as the command shows them
@pytest.mark.parametrize("change", ["flags", "damage", slow("weights")])
def test_what_is_of_something_else_is_not_taken_up(
    change: str, run: Path, at_batch: Callable[[int, Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Said in a warning; the training starts again."""
    command = [*COMMANDS["linear-paper"], "--weights", str(run), *CPU]
    at_batch(3, terminate)
    assert main(command) == 75
    path = run / "evaluations" / f"linear-paper{statefile.ENDING}"
    if change == "flags":
        command += ["--lr", "0.1"]
    elif change == "damage":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        tensors, facts = load_tensors(path)
        facts["about"]["backbone"] = "another"
        save_tensors(path, tensors, facts)
    capsys.readouterr()
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert ("not a valid safetensors file" if change == "damage" else "other settings, weights or images") in err
    assert err.count("starting over") == 1
    assert main(command) == 0
    anew, whole = (figures(json.loads(one)) for one in (out, capsys.readouterr().out))
    assert anew == whole


def test_weights_that_are_no_run_s_have_no_place(
    run: Path, run_command: Evaluate, at_batch: Callable[[int, Callable[[], None]], None]
) -> None:
    """A signal does what it always did, and nothing is written."""
    alone = shutil.copy(run / "encoder.safetensors", run.parent / "alone.safetensors")

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    at_batch(3, interrupt)
    code, _ = run_command("linear-paper", weights=Path(alone))
    assert code == 130
    assert sorted(path.name for path in run.parent.iterdir()) == ["alone.safetensors", "run"]
    assert left_over(run) == []


def test_the_callers_random_numbers_stay(run: Path, run_command: Evaluate, at_batch: Callable[..., None]) -> None:
    """What a state holds of torch's is for its training alone."""
    drawn = []
    for batch in (None, 3):
        if batch is not None:
            at_batch(batch, terminate)
            run_command("linear-paper")
        torch.manual_seed(1)
        run_command("linear-paper")
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
