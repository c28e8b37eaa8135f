"""Several budgets: what a run passes through is what shorter runs end with, and verdicts are followed over budgets."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from moco.commands import pretrain
from moco.errors import BadInputError
from moco.pretraining.recipes import recipe
from moco.study.budgets import (
    AtBudget,
    describe_crossing,
    follow_claims,
    hand_over,
    hand_over_line,
    name_budgets,
    require_budgets,
)
from moco.study.config import StudyConfig
from moco.study.definition import Arm, Claim, Study, find_study
from moco.study.page import study_page
from moco.study.plan import cells, equal_budgets, require_arms, select_arms
from moco.study.rows import list_rows
from moco.study.statistics import Judged
from tests.digits import use_few_digits

SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 8, "view_size": 8, "dictionary": "queue", "batch_size": 32, "queue_size": 64,
    "bn_groups": 2, "checkpoint_every": 2, "workers": 0, "warmup_epochs": 0.5, "whiten": 200,
}  # fmt: skip


def config(folder: Path, *budgets: int, **values: Any) -> StudyConfig:
    """A study on the digits."""
    return StudyConfig("s", "digits", folder, **{"budgets": budgets, "device": "cpu", "threads": 1, **values})


def test_a_budget_is_a_run_of_that_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: against runs of those lengths, each from the beginning, by a config that knows no study."""
    use_few_digits(monkeypatch)
    study = Study("s", "s", (Arm("a", SMALL),), evaluate={})
    for cell in cells(study, config(tmp_path / "S", 96, 224, seeds=1), 224, study.arms):
        if cell.earlier:
            hand_over(cell.earlier.run, cell.run)
        pretrain.run(cell.training)
    for steps, name in ((3, "a-n96-s0"), (7, "a-s0")):
        own = {**SMALL, "schedule": "step", "lr_decay": 1.0, "max_steps": steps, "knn_every": 0, "precision": "fp32"}
        out = tmp_path / f"alone-{steps}"
        pretrain.run(recipe("quick", data="digits", out=out, device="cpu", threads=1, **own))
        run = tmp_path / "S" / "cells" / name
        assert (run / "encoder.safetensors").read_bytes() == (out / "encoder.safetensors").read_bytes(), steps
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert [line["step"] for line in lines if line.get("event") == "resume"] == [3]
    assert not (tmp_path / "S" / "cells" / "a-n96-s0" / "checkpoints").exists()


@pytest.mark.parametrize("by", ["python", "shell"])
def test_the_state_is_handed_over_once(tmp_path: Path, by: str) -> None:
    """By a study or by a line of shell; a run that has a state of its own keeps it, one that is not done gives none."""
    first, second = tmp_path / "a 'b'-n1-s0", tmp_path / "a 'b'-s0"
    (first / "checkpoints").mkdir(parents=True)
    for name in ("metrics.jsonl", "data.safetensors", "checkpoints/000000003.safetensors"):
        (first / name).write_text(name, encoding="utf-8")

    def go() -> None:
        if by == "python":
            hand_over(first, second)
        else:
            subprocess.run(["sh", "-ec", f"true && {hand_over_line(first, second)} && true"], check=True)

    if by == "python":
        (first / "status.json").write_text('{"state": "stopped"}', encoding="utf-8")
        go()
        assert not second.exists()
    (first / "status.json").write_text('{"state": "done"}', encoding="utf-8")
    for _ in range(2):
        go()
        found = {str(path.relative_to(second)) for path in second.rglob("*") if path.is_file()}
        assert found == {"metrics.jsonl", "data.safetensors", "checkpoints/000000003.safetensors"}
    (first / "checkpoints").mkdir()
    go()
    assert (second / "checkpoints" / "000000003.safetensors").is_file()


def test_the_rate_is_constant_and_an_arm_of_another_schedule_is_left_out(tmp_path: Path) -> None:
    """A recipe's or a study's schedule gives way; an arm's own is what the study asks about."""
    asked = config(tmp_path, 12_800, 25_600)
    study = find_study("v2")
    arms, left_out = select_arms(study, asked, 50_000)
    assert [arm.name for arm in arms] == ["v1", "mlp", "aug", "mlp-aug"]
    assert left_out == [
        "mlp-aug-cos is left out: --schedule cosine depends on the length of a run, which --budgets rules out"
    ]
    for cell in cells(find_study("momentum"), asked, 25_600, find_study("momentum").arms):
        assert (cell.training.schedule, cell.training.lr_decay) == ("step", 1)
        assert "--schedule step" in cell.line


@pytest.mark.parametrize(("study", "values", "said"), [
    ("momentum", {"images": 3}, "--images"), ("momentum", {"minutes": 3.0}, "--minutes"),
    ("momentum", {"halving": True}, "--halving"), ("momentum", {"skip_settled": True}, "--skip-settled"),
    ("cost", {}, "12 steps each"),
])  # fmt: skip
def test_what_does_not_go_together(tmp_path: Path, study: str, values: dict[str, Any], said: str) -> None:
    """Is refused before anything is measured; without --budgets nothing is."""
    with pytest.raises(BadInputError, match=said):
        require_budgets(find_study(study), config(tmp_path, 128, 256, **values))
    require_budgets(find_study(study), config(tmp_path, **values))


def test_budgets_become_whole_batches(tmp_path: Path) -> None:
    """The smallest first; two that become one are refused, and a study of which no arm is left, with the reason."""
    study = find_study("momentum")
    assert equal_budgets(study, config(tmp_path, 1300, 260), study.arms) == [256, 1280]
    with pytest.raises(BadInputError, match="--budgets 260 270: two of them become 256 images"):
        equal_budgets(study, config(tmp_path, 260, 270), study.arms)
    cosine, asked = Study("s", "s", (Arm("a", {"schedule": "cosine"}),)), config(tmp_path, 260)
    with pytest.raises(BadInputError, match="no arm of s is left: a is left out: --schedule cosine"):
        require_arms(cosine, asked, *select_arms(cosine, asked, 260))
    reason = r"--data \S+: no arm of momentum is left: m-0 is left out: a batch of 128, and there are only 24 images"
    with pytest.raises(BadInputError, match=reason):
        require_arms(study, asked, *select_arms(study, asked, 24))
    require_arms(study, asked, *select_arms(study, asked, 512))
    assert name_budgets([1000, 20_000, 300_000]) == "1,000, 20,000 and 300,000"


CLAIM = Claim("More is better.", "b", "a")


@pytest.mark.parametrize(("verdicts", "said"), [
    ([("holds", 1.0), ("holds", 2.0)], ""),
    ([("does not hold", -3.0), ("is undecided", 0.5), ("holds", 2.0)],
     "does not hold at 100 images, is undecided at 200; is undecided at 200 images, holds at 300"),
    ([("is undecided", -0.5), ("is undecided", 0.5)],
     "is undecided at 100 and 200 images, but the difference changes its sign"),
])  # fmt: skip
def test_the_crossing_is_named(verdicts: list[tuple[str, float]], said: str) -> None:
    """Where the verdict changes or the sign does."""
    looks = [
        AtBudget(100 * place, (), [Judged(CLAIM, difference, 1.0, verdict)])
        for place, (verdict, difference) in enumerate(verdicts, 1)
    ]
    ((text, judged),) = follow_claims(looks)
    assert text == CLAIM.text
    assert describe_crossing(judged) == said


def test_curves_over_time_are_those_of_the_largest_budget() -> None:
    """Of the first seed that an arm has."""
    study = Study("s", "s", (Arm("a"),), over_time=("loss",))
    results: list[dict[str, Any]] = [
        {"arm": "a", "seed": seed, "state": "done", "figures": {"kNN top-1 (%)": 50.0}, "command": "moco",
         "over_time": {"loss": [(0, 10.0), (budget, 10.0 + budget + seed)]}, "machine": {}}
        for seed in (0, 1) for budget in (1, 2)
    ]  # fmt: skip
    rows = list_rows(study, study.arms, results[2:])
    findings = {"verdict": "", "random": None, "results": results, "notes": [], "budget": "", "extrapolation": None}
    assert "a: % from 10.00 to 12.00" in study_page(study, rows, None, [], findings, "")
