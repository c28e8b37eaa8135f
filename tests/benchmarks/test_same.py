"""The comparing part of `benchmarks.same`: what changed is found and named, and what is measured does not count."""

import json
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.same.__main__ import Options, chosen, main
from benchmarks.same.cases import CASES, GIVEN, INPUTS, Case
from benchmarks.same.evidence import Outcome, digest, first_difference, gather, verdict
from benchmarks.same.inputs import MAKERS, photo, write_photos
from benchmarks.same.running import Side, attempt, side_by_side
from benchmarks.same.trees import copy_commit, copy_working_tree

WEIGHTS = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(3, dtype=torch.bfloat16)}
LINES: list[dict[str, Any]] = [
    {"step": 1, "loss": 6.5, "lr": 0.1, "images_per_second": 100.0, "time": 0.5},
    {"step": 2, "loss": 6.25, "lr": 0.1, "images_per_second": 90.0, "time": 0.75},
]
RESULT = {"top1": 50.0, "lrs": [0.1, 1.0], "seconds": 2.5, "health": "fine"}


def outcome(
    folder: Path, weights: dict[str, Tensor] = WEIGHTS, queue: float = 0.0, seconds: str = "1",
    lines: list[dict[str, Any]] = LINES, result: dict[str, Any] = RESULT, features: float = 0.0, kept: float = 0.0,
) -> Outcome:  # fmt: skip
    """What a case left: a run folder, an array of features, and a line on standard output."""
    checkpoints = folder / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    save_file(weights, folder / "run" / "encoder.safetensors", {"moco": seconds})
    for step in (20, 40):
        tensors = {"dictionary.keys": torch.full((2, 4), queue if step == 40 else float(seconds))}
        save_file(tensors, checkpoints / f"{step:09d}.safetensors", {"moco": seconds})
    events = [{"event": "resume", "step": int(seconds), "time": 0.1}]
    text = "".join(json.dumps(line) + "\n" for line in [*events, *lines])
    (folder / "run" / "metrics.jsonl").write_text(text, encoding="utf-8")
    evaluations = folder / GIVEN / "evaluations"
    evaluations.mkdir(parents=True)
    (evaluations / "knn.json").write_text(json.dumps({"top1": kept, "seconds": seconds}), encoding="utf-8")
    save_file({"given": torch.full((1,), float(seconds))}, folder / GIVEN / "encoder.safetensors")
    np.savez(folder / "features.npz", features=np.full((2, 2), features), paths=np.array(["a", "b"]))
    return Outcome(gather(folder, f"words for people\n{json.dumps(result)}\n"))


def test_what_is_measured_does_not_count(tmp_path: Path) -> None:
    """Times, speeds, events, words, metadata, older checkpoints and the weights that were given may differ."""
    later = [{**line, "time": line["time"] + 1, "images_per_second": 7.0} for line in LINES]
    before = outcome(tmp_path / "before")
    now = outcome(
        tmp_path / "now", seconds="2", lines=later, result={**RESULT, "seconds": 9.0, "health": "as it should be"}
    )
    assert all(before.parts.values())
    assert verdict(before, now) == ("same", "")
    assert {part: digest(values) for part, values in before.parts.items()} == {
        part: digest(values) for part, values in now.parts.items()
    }


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"weights": {**WEIGHTS, "conv1.weight": WEIGHTS["conv1.weight"] + torch.eye(2, 3) * 1e-7}}, "conv1.weight"),
        ({"weights": {**WEIGHTS, "fc.bias": -WEIGHTS["fc.bias"]}}, "fc.bias"),  # -0.0 == 0.0, of other bits
        ({"weights": {**WEIGHTS, "fc.bias": WEIGHTS["fc.bias"].half()}}, "fc.bias"),
        ({"weights": {**WEIGHTS, "conv1.weight": WEIGHTS["conv1.weight"].reshape(3, 2)}}, "conv1.weight"),
        ({"weights": {"conv1.weight": WEIGHTS["conv1.weight"]}}, "fc.bias"),
        ({"weights": {**WEIGHTS, "more": torch.zeros(1)}}, "more"),
        ({"queue": 1e-30}, "checkpoint: dictionary.keys"),
        ({"lines": [LINES[0], {**LINES[1], "loss": 6.2500000001}]}, "metrics line 2 loss"),
        ({"lines": LINES[:1]}, "metrics line 2"),
        ({"result": {**RESULT, "lrs": [0.1, 3.0]}}, "result lrs 1"),
        ({"features": 1.0}, "features.npz features"),
        ({"kept": 1.0}, "knn.json top1"),
    ],
)
def test_what_changed_is_found_and_named(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    """One bit of a tensor, its type, shape or name, a loss, a figure."""
    before, now = outcome(tmp_path / "before"), outcome(tmp_path / "now", **changed)
    word, reason = verdict(before, now)
    assert word == "differs"
    assert named in reason
    assert first_difference(now, before)  # the other way round too


def test_a_new_figure_beside_others_is_no_difference(tmp_path: Path) -> None:
    """In a line of metrics and in a result; where it is lost it is one."""
    before = outcome(tmp_path / "before")
    now = outcome(tmp_path / "now", lines=[{**line, "more": 1} for line in LINES], result={**RESULT, "more": 2.0})
    assert verdict(before, now) == ("same", "")
    assert verdict(now, before)[0] == "differs"


def test_a_word_that_one_side_does_not_know(tmp_path: Path) -> None:
    """A new flag is no failure, a lost one is, and one that nobody knows is a wrong case."""
    ran = outcome(tmp_path / "run")
    unknown = Outcome(error="exit code 2 in place of 0: moco: error: --new is not a flag of moco knn (see --help)")
    other = Outcome(error="exit code 1 in place of 0: Segmentation fault")
    assert verdict(unknown, ran)[0] == "not there before"
    assert verdict(ran, unknown)[0] == "not there now"
    assert verdict(unknown, unknown)[0] == verdict(ran, other)[0] == verdict(unknown, other)[0] == "failed"


def test_a_side_takes_its_own_tree_and_must_leave_what_is_compared(tmp_path: Path) -> None:
    """A package that trains nothing: the other side's is not taken, and a run without an encoder is no evidence."""
    sides = []
    for name in ("before", "now"):
        package = tmp_path / f"tree-{name}" / "moco"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(f"import sys; print(sys.argv[1:]); sys.exit({name!r} == 'now')\n")
        sides.append(Side(package.parent, tmp_path / name))
        sides[-1].folder.mkdir()
        sides[-1].require_own_package()
    outcomes = side_by_side([attempt(Case("any", ("pretrain", "quick")), side) for side in sides])
    assert [one.error for one in outcomes] == [
        "left no encoder, no checkpoint, no figures", "exit code 1 in place of 0: it said nothing",
    ]  # fmt: skip
    assert [list(side.folder.iterdir()) for side in sides] == [[], []]


def test_what_runs_is_ended_when_the_comparison_is(tmp_path: Path) -> None:
    """An error or Ctrl-C ends the other side's process too."""
    package = tmp_path / "tree" / "moco"
    package.mkdir(parents=True)
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)\n"
    (package / "__main__.py").write_text(program)
    side = Side(package.parent, tmp_path / "runs")
    side.folder.mkdir()
    pids = list[int]()

    def interrupt() -> Generator[None, None, Outcome]:
        said = side.folder / "any" / "stdout.txt"
        while not (said.exists() and said.read_text().endswith("\n")):
            yield
        pids.append(int(said.read_text()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side([attempt(Case("any", ("pretrain",)), side), interrupt()])
    assert not list(side.folder.iterdir())
    assert not Path(f"/proc/{pids[0]}").exists()


def test_trees_are_those_of_the_commit_and_of_the_working_tree(tmp_path: Path) -> None:
    """Edits, new files and removed files are on one side only; ignored files on none."""
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        subprocess.run(["git", *identity, *words], cwd=repository, check=True, capture_output=True)

    git("init")
    for name, text in {"kept.py": "old", "removed.py": "old", ".gitignore": "*.log"}.items():
        (repository / name).write_text(text)
    git("add", ".")
    git("commit", "-m", "first")
    (repository / "removed.py").unlink()
    for name in ("kept.py", "added.py", "noise.log"):
        (repository / name).write_text("new")
    copy_commit(repository, "HEAD", tmp_path / "before")
    copy_working_tree(repository, tmp_path / "now")
    found = [
        {path.name: path.read_text() for path in (tmp_path / side).iterdir() if path.name != ".gitignore"}
        for side in ("before", "now")
    ]
    assert found == [{"kept.py": "old", "removed.py": "old"}, {"kept.py": "new", "added.py": "new"}]
    with pytest.raises(ValueError, match="not a commit"):
        copy_commit(repository, "--output=x", tmp_path / "other")


def test_cases_read_what_is_made() -> None:
    """Every input of a case has its maker, names are unique, and unknown ones are refused."""
    inputs = {word.rpartition("/")[2] for case in CASES for word in case.words if word.startswith(INPUTS)}
    assert inputs | {"encoder"} == set(MAKERS)
    assert all(any(case.takes(name) for case in CASES) for name in MAKERS)
    assert all(case.takes("encoder") for case in CASES if "--weights" in case.words)
    assert len({case.name for case in CASES}) == len(CASES)
    assert [case.name for case in chosen(("knn", "queue"))] == ["knn", "queue"]
    assert chosen(()) == list(CASES)
    with pytest.raises(ValueError, match="--only nothing: not a case"):
        chosen(("nothing",))


def test_the_list_is_printed_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Each case with its command line."""
    assert main(Options(only=("stop-resume",), listed=True)) == 0
    assert "stop-resume, stopped after step 7\n    moco pretrain quick" in capsys.readouterr().out
    assert main(Options(only=("nothing",))) == 2


def test_photos_are_the_same_every_time(tmp_path: Path) -> None:
    """A fixed seed, several sizes."""
    write_photos(tmp_path / "first")
    write_photos(tmp_path / "second")
    first, second = ([photo(tmp_path / name, n).read_bytes() for n in range(200)] for name in ("first", "second"))
    assert first == second
