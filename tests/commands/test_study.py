"""A study from its plan to its page, with runs that are made up; a real one in miniature is marked slow."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from moco.commands import study as module
from moco.commands.study import run
from moco.errors import BadInputError
from moco.report.runs import read_run
from moco.study import running, statistics
from moco.study.config import StudyConfig
from moco.study.running import figures_of, find_number

STUDY = """
about = "Rates <script>alert(1)</script>"
source = "nobody's & <b>paper</b>"
x = "rate"
over_time = ["contrast_accuracy"]
arms = [
  { name = "low", x = "low", paper = 50.0, recalled = true, values = { base_lr = 0.01 } },
  { name = "middle", x = "middle", paper = 55.0, values = { base_lr = 0.1 } },
  { name = "high", x = "high", paper = 60.0, values = { base_lr = 1.0 } },
]
claims = [{ text = "Higher is better.", better = "high", worse = "low" }]
"""
TOP1 = {"low": 20.0, "middle": 30.0, "high": 40.0}
SURVEY = {"images": 1000, "all_images": 1200, "loading": 1.0, "rates": dict.fromkeys(TOP1, 100.0), "encoded": 500.0}


class Machine:
    """Stands in for the processes: notes what is called, and leaves what a run and an evaluation leave."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.codes: dict[str, int] = {}
        """Exit code of the training of a cell."""

    def call(self, words: tuple[str, ...], log: Path, request: Any) -> int:
        """Instead of a process of moco."""
        flags = dict(itertools.pairwise(words))
        folder = Path(flags["--out"] if words[0] == "pretrain" else flags["--weights"])
        self.calls.append(f"{words[0]} {folder.name}")
        code = self.codes.get(folder.name, 0)
        arm, seed = folder.name.rsplit("-s", 1)
        if words[0] == "pretrain":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text('{"version": 1, "batch_size": 128}', encoding="utf-8")
            state = {0: "done", 3: "diverged", 75: "stopped"}.get(code, "failed")
            status = {"state": state, "result": {"loss": 3.0, "peak_memory_mib": 700}}
            (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
            lines = [{"step": s, "contrast_accuracy": 5.0 * s, "images_per_second": 128.0 * s} for s in range(1, 5)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
            log.write_text("moco: error: --lr is odd\n", encoding="utf-8")
        else:
            (folder / "evaluations").mkdir()
            figures = {"top1": TOP1[arm] + int(seed), "baselines": {"random": {"top1": 25.0}}}
            (folder / "evaluations" / "knn.json").write_text(json.dumps(figures), encoding="utf-8")
        return code


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """No process is started, and intervals are rough."""
    made = Machine()
    monkeypatch.setattr(statistics, "DRAWS", 20)
    monkeypatch.setattr(running, "_call", made.call)
    monkeypatch.setattr(module, "run_alone", lambda target, config, folder, case: SURVEY)
    return made


def study(folder: Path, **values: Any) -> StudyConfig:
    """Of the file, with two seeds."""
    (folder / "rates.toml").write_text(STUDY, encoding="utf-8")
    return StudyConfig(str(folder / "rates.toml"), "digits", folder / "S", **{"images": 1280, "seeds": 2, **values})


def test_from_plan_to_page(tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell once, seeds outermost; means over the seeds; what a name holds stays text."""
    result = run(study(tmp_path))
    order = [f"{arm}-s{seed}" for seed in (0, 1) for arm in TOP1]
    assert machine.calls == [f"{what} {cell}" for cell in order for what in ("pretrain", "knn")]
    assert result["exit_code"] == 0
    assert [row["mean"] for row in result["rows"]] == [20.5, 30.5, 40.5]
    assert result["rows"][0]["deviation"] == pytest.approx(0.5**0.5)
    assert result["agreement"]["tau"] == pytest.approx(1)
    assert result["claims"][0]["verdict"] == "holds"
    assert result["random"] == 25
    assert "6 cells, 6 of them not run yet" in capsys.readouterr().out
    with (tmp_path / "S" / "study.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [table[0][name] for name in ("arm", "mean", "paper", "each")] == ["low", "20.5", "50.0", "20.0 21.0"]
    page = (tmp_path / "S" / "study.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "script-src 'none'" in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "50.0†" in page
    assert json.loads((tmp_path / "S" / "study.json").read_text(encoding="utf-8"))["verdict"] == result["verdict"]


def test_it_goes_on_where_it_stopped(tmp_path: Path, machine: Machine) -> None:
    """A signal ends it with 75; then only what is missing is run; nothing where all is there; seeds can be added."""
    machine.codes = {"high-s0": 75}
    assert run(study(tmp_path, seeds=1))["exit_code"] == 75
    assert machine.calls[-1] == "pretrain high-s0"
    machine.codes, machine.calls = {}, []
    assert run(study(tmp_path, seeds=1))["exit_code"] == 0
    assert machine.calls == ["pretrain high-s0", "knn high-s0"]
    machine.calls = []
    run(study(tmp_path, seeds=1))
    assert machine.calls == []
    assert len(run(study(tmp_path, seeds=2))["cells"]) == 6
    with pytest.raises(BadInputError, match=r"--images 1280, and now it is 2560"):
        run(study(tmp_path, images=2560))
    with pytest.raises(BadInputError, match=r"--exclude \[\], and now it is \['masks'\]"):
        run(study(tmp_path, exclude=("masks",)))


def test_a_cell_that_was_run_by_hand_counts(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of --commands is a cell; the study then only collects."""
    config = study(tmp_path, seeds=1)
    lines = run(StudyConfig(**{**vars(config), "commands": True}))["commands"]
    assert [line in capsys.readouterr().out for line in lines][:1] == [True]
    assert len(lines) == 3
    assert machine.calls == []
    for line in lines:
        for part in line.split(" && "):
            machine.call(tuple(part.split()[1:]), tmp_path / "log.txt", None)
    machine.calls = []
    assert run(config)["exit_code"] == 0
    assert machine.calls == []


def test_cells_that_fail(tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """A diverged one is a result, and stands below all; a failed one is run again; a refused one ends the study."""
    machine.codes = {"low-s0": 3, "middle-s0": 1}
    result = run(study(tmp_path, seeds=1))
    assert result["exit_code"] == 1
    assert result["failed"] == ["middle-s0"]
    assert "middle-s0: failed --lr is odd (all of it: " in capsys.readouterr().out
    assert [row["diverged"] for row in result["rows"]] == [1, 0, 0]
    assert "Of low at least one run diverged." in result["verdict"]
    machine.codes = {"middle-s0": 2}
    with pytest.raises(BadInputError, match="cell middle-s0: --lr is odd"):
        run(study(tmp_path, seeds=1))


def test_a_plan_runs_nothing(tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """It tells steps and time; minutes become images at the mean time of the arms."""
    result = run(study(tmp_path, plan=True, images=None, minutes=1.0))
    assert result["plan"]["images"] == 47 * 128  # 100 images a second for a minute
    assert machine.calls == []
    assert not (tmp_path / "S").exists()
    assert "47 steps of 128" in capsys.readouterr().out


def test_what_cannot_be_begun(tmp_path: Path, machine: Machine) -> None:
    """A budget that is given twice, a file where the folder should be: refused before anything is measured."""
    with pytest.raises(BadInputError, match="--images and --minutes both say how long"):
        run(study(tmp_path, minutes=1.0))
    (tmp_path / "S").write_text("in the way", encoding="utf-8")
    with pytest.raises(BadInputError, match="no folder can be made or written there"):
        run(study(tmp_path, plan=True))


@pytest.mark.parametrize("content", ["{", "[]", '{"state": "done"}', '{"state": "done", "figures": 3}'])
def test_results_that_are_damaged_are_collected_anew(tmp_path: Path, machine: Machine, content: str) -> None:
    """Or of another version: the runs still have the figures."""
    first = run(study(tmp_path, seeds=1))
    (tmp_path / "S" / "results" / "low-s0.json").write_text(content, encoding="utf-8")
    machine.calls = []
    again = run(study(tmp_path, seeds=1))
    assert machine.calls == []
    assert again["rows"] == first["rows"]


@pytest.mark.parametrize("content", ["{", "[]", '{"asked": 3}', '{"asked": {}, "study": 1, "images": 2, "survey": {}}'])
def test_a_plan_that_is_damaged(tmp_path: Path, machine: Machine, content: str) -> None:
    """Is refused: what the cells have in common is not known."""
    run(study(tmp_path, seeds=1))
    (tmp_path / "S" / "plan.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadInputError, match=r"no valid plan\.json"):
        run(study(tmp_path, seeds=1))


def test_figures_of_a_run(tmp_path: Path, machine: Machine) -> None:
    """Time per step is by the median speed without the first line, at which things warm up."""
    words = ("pretrain", "quick", "--out", str(tmp_path / "low-s0"))
    machine.call(words, tmp_path / "log.txt", None)
    figures = figures_of(read_run(tmp_path / "low-s0"))
    assert find_number(figures, "run.milliseconds_per_step") == pytest.approx(1000 * 128 / (128 * 3), abs=0.01)
    assert find_number(figures, "run.peak_memory_mib") == 700
    assert find_number(figures, "knn.top1") is None


@pytest.mark.slow
def test_a_real_one(tmp_path: Path) -> None:
    """Two arms of ten steps on the digits, each in processes of its own."""
    path = tmp_path / "rates.toml"
    path.write_text('about = "m"\nx = "key_momentum"\n[grid]\nkey_momentum = [0.0, 0.99]\n', encoding="utf-8")
    result = run(StudyConfig(str(path), "digits", tmp_path / "S", images=1280, seeds=1, threads=1))
    assert result["exit_code"] == 0
    assert all(10 < row["mean"] <= 100 for row in result["rows"])


def test_settled_arms_get_no_further_seeds(tmp_path: Path, machine: Machine) -> None:
    """From the third seed on; an arm in no claim goes on; the page and the verdict say it, and nothing is missing."""
    result = run(study(tmp_path, seeds=4, skip_settled=True))
    assert [call for call in machine.calls if call.endswith(("s2", "s3"))] == [
        f"{what} middle-s{seed}" for seed in (2, 3) for what in ("pretrain", "knn")
    ]
    assert result["failed"] == []
    assert "low is left out from seed 2 on: every claim about it was settled." in result["notes"]
    assert result["claims"][0]["verdict"] == "holds"
    machine.calls = []
    assert run(study(tmp_path, seeds=4, skip_settled=True))["failed"] == []
    assert machine.calls == []


def test_successive_halving(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All arms on half of the images, then the better two on all; it goes on where it stopped."""
    names = [f"lr={value}" for value in (0.01, 0.1, 1)]
    monkeypatch.setattr(module, "run_alone", lambda *asked: {**SURVEY, "rates": dict.fromkeys(names, 100.0)})
    monkeypatch.setitem(globals(), "TOP1", {name + part: 20.0 + place for part in ("", "-r0")
                                            for place, name in enumerate(names)})  # fmt: skip
    config = StudyConfig("sweep", "digits", tmp_path / "S", images=2560, seeds=1, halving=True,
                         flag=("lr",), values=(("0.01", "0.1", "1"),))  # fmt: skip
    machine.codes = {"lr=1-s0": 75}
    assert run(config)["exit_code"] == 75
    machine.codes = {}
    result = run(config)
    assert [call.split()[1] for call in machine.calls if call.startswith("knn")] == [
        *(f"{name}-r0-s0" for name in names), "lr=0.1-s0", "lr=1-s0",
    ]  # fmt: skip
    assert [row["arm"] for row in result["rows"]] == names[1:]
    assert "sweep: --lr\n" in capsys.readouterr().out
    note = "After 1280 images lr=0.01 (20.00) dropped out; lr=0.1 (21.00), lr=1 (22.00) went on."
    assert note in result["notes"]
    assert note in (tmp_path / "S" / "study.html").read_text(encoding="utf-8")


def test_budgets(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All arms at the small budget, then on to the large one; the crossing is named; it goes on where it stopped."""
    small = {"low-n640": 40.0, "middle-n640": 30.0, "high-n640": 20.0}
    monkeypatch.setitem(globals(), "TOP1", {**TOP1, **small})
    config = study(tmp_path, images=None, budgets=(1280, 640))
    machine.codes = {"low-s0": 75}
    assert run(config)["exit_code"] == 75
    assert "The crossing" not in (tmp_path / "S" / "study.html").read_text(encoding="utf-8")
    machine.codes = {}
    result = run(study(tmp_path, images=None))  # the plan knows the budgets
    order = [f"{arm}{part}-s{seed}" for seed in (0, 1) for part in ("-n640", "") for arm in TOP1 if "-" not in arm]
    trained = [call.split()[1] for call in machine.calls if call.startswith("knn")]
    assert trained == order
    assert [(row["arm"], row["images"], row["mean"]) for row in result["rows"]] == [
        ("low", 640, 40.5), ("middle", 640, 30.5), ("high", 640, 20.5),
        ("low", 1280, 20.5), ("middle", 1280, 30.5), ("high", 1280, 40.5),
    ]  # fmt: skip
    assert [one["claims"][0]["verdict"] for one in result["budgets"]] == ["does not hold", "holds"]
    said = "The crossing: does not hold at 640 images, holds at 1,280."
    assert said in result["verdict"]
    page = (tmp_path / "S" / "study.html").read_text(encoding="utf-8")
    assert said in page
    assert "At 640 images" in page
    with pytest.raises(BadInputError, match=r"--budgets \[640, 1280\], and now it is \[640, 2560\]"):
        run(study(tmp_path, images=None, budgets=(640, 2560)))
    with pytest.raises(BadInputError, match="--images None, and now it is 1280"):
        run(study(tmp_path))
    capsys.readouterr()
    plan = run(study(tmp_path, images=None, plan=True))
    assert len(plan["cells"]) == 12
    assert "Evaluated at 640 and 1,280 images, at a constant rate." in capsys.readouterr().out
    lines = run(study(tmp_path, images=None, commands=True, seeds=1))["commands"]
    assert len(lines) == 3
    assert [part.split()[1] for part in lines[0].split(" && ") if part.startswith("moco")] == [
        "pretrain", "knn", "pretrain", "knn",
    ]  # fmt: skip
