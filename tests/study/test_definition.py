"""Studies as data: ours are sound, a user's is checked key by key, and cells are commands that can be run by hand."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from moco.cli import parse
from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig
from moco.study.config import StudyConfig
from moco.study.definition import build_study, find_study, read_study
from moco.study.plan import cells, equal_budget, select_arms

OURS = [
    "mechanisms", "momentum", "shuffling-bn", "temperature", "v2", "simclr", "cost", "supervised", "hard-negatives",
]  # fmt: skip


def config(name: str = "momentum", **values: Any) -> StudyConfig:
    """Of a command."""
    return StudyConfig(name, "digits", Path("S"), **values)


@pytest.mark.parametrize("name", OURS)
def test_our_cells_are_what_their_commands_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of each cell, read by the command line, is the config that the plan counts with; images are equal."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a flag that must be given has a placeholder
    study = find_study(name)
    asked = config(name, seeds=2, exclude=("masks", "*_m.png"))
    arms, left_out = select_arms(study, asked, 100_000)
    assert left_out == []
    images = equal_budget(study, asked, 50_000.0, arms)
    made = list(cells(study, asked, images, arms))
    assert len(made) == 2 * len(arms)
    for cell in made[: len(arms) + 1]:  # of the second seed one is enough
        words = shlex.split(cell.line.split(" && ")[0])
        read, _ = parse(words[1:])
        assert read == cell.training, cell.name
        if study.steps is None:
            assert cell.training.batch_size * (cell.training.max_steps or 0) == images
        for command in cell.commands[1:]:
            assert parse(list(command))[0].exclude == asked.exclude


def test_arms_differ_only_in_what_is_studied() -> None:
    """Between two arms of the momentum study, in m and in the folder."""
    asked = config()
    first, second = list(cells(find_study("momentum"), asked, 2560, find_study("momentum").arms))[:2]
    differing = {name for name, value in vars(first.training).items() if value != getattr(second.training, name)}
    assert differing == {"key_momentum", "out"}


def test_arms_that_the_set_is_too_small_for() -> None:
    """Are left out with a word; an own-key mask lets K be larger."""
    arms, left_out = select_arms(find_study("mechanisms"), config(), 1437)
    assert {arm.name for arm in arms} == {
        *(f"{kind}-{k}" for kind in ("bank", "queue", "in-batch") for k in (256, 512, 1024))
    }
    assert "queue-4096 is left out: K = 4096, and there are only 1437 images" in left_out


GRID = """
about = "rates"
axis = "log"
x = "base_lr"
values = { dictionary = "queue" }
[grid]
base_lr = [0.03, 0.06]
head = ["linear", "mlp"]
"""


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_a_users_grid(tmp_path: Path, ending: str) -> None:
    """Every combination is an arm; the x axis is the flag that is called so, the others make the curves."""
    import tomllib

    path = tmp_path / f"rates.{ending}"
    path.write_text(GRID if ending == "toml" else json.dumps(tomllib.loads(GRID)), encoding="utf-8")
    study = find_study(str(path))
    assert study.name == "rates"
    assert [(arm.x, arm.series) for arm in study.arms] == [
        (0.03, "--head linear"), (0.03, "--head mlp"), (0.06, "--head linear"), (0.06, "--head mlp"),
    ]  # fmt: skip
    trained = [cell.training for cell in cells(study, config(str(path), seeds=1), 1280, study.arms)]
    assert [(t.base_lr, t.head, t.dictionary) for t in trained][3] == (0.06, "mlp", "queue")


ARM: dict[str, Any] = {"name": "a"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"arms": [ARM]}, "missing key 'about'"),
    ({"about": "x"}, "no arms"),
    ({"about": "x", "arms": [ARM, ARM]}, "two arms are called 'a'"),
    ({"about": "x", "arms": [ARM, {**ARM, "name": "A"}]}, "two arms are called 'a'"),
    ({"about": "x", "arms": [{"name": "../a"}]}, "is not a name"),
    ({"about": "x", "arms": [{"name": "a/b"}]}, "is not a name"),
    ({"about": "x", "arms": [ARM], "over_time": ["<b>"]}, "over_time names '<b>'"),
    ({"about": "x", "arms": [ARM], "run": "rm"}, "unknown key 'run'"),
    ({"about": "x", "arms": [{**ARM, "values": {"out": "/etc"}}]}, "--out, which the study sets itself"),
    ({"about": "x", "arms": [{**ARM, "values": {"nonsense": 1}}]}, "--nonsense, which is not a flag"),
    ({"about": "x", "arms": [{**ARM, "values": {"queue_size": "many"}}]}, "--queue-size is 'many', expected int"),
    ({"about": "x", "arms": [{**ARM, "values": {"quarter_turns": "on"}}]}, "expected true or false"),
    ({"about": "x", "arms": [{**ARM, "values": {"queue_size": -1}}]}, "--queue-size is -1"),
    ({"about": "x", "arms": [ARM], "recipe": "v9"}, "'v9' is not a recipe"),
    ({"about": "x", "arms": [ARM], "evaluate": {"knn": "pretrain v1"}}, "expected one of knn, linear"),
    ({"about": "x", "arms": [ARM], "evaluate": {"knn": "knn --weights x"}}, "--weights, which the study sets itself"),
    ({"about": "x", "arms": [ARM], "evaluate": {"../k": "knn"}}, "is not a name"),
    ({"about": "x", "arms": [ARM], "claims": [{"text": "t", "better": "a", "worse": "z"}]}, "'z', which is not an arm"),
    ({"about": "x", "grid": {"lr": 3}}, "expected flags, each with a list"),
    ({"about": "x", "arms": [{**ARM, "paper": "high"}]}, "paper is 'high', expected float"),
    ({"about": "x", "arms": [{**ARM, "paper": math.nan}]}, "paper is nan, expected a finite number"),
    ({"about": "x", "arms": [{**ARM, "x": math.inf}]}, "x is inf, expected a finite number"),
    ({"about": "x", "arms": [{**ARM, "values": {"lr": 10**400}}]}, "arms: 0: values: lr is a whole number of more"),
    ({"about": "x", "grid": {key: [*range(100)] for key in "abcde"}}, "10000000000 arms, expected at"),
    ({"about": "x", "arms": [ARM] * 1001}, "1001 arms, expected at most 1000"),
    ({"about": "x", "grid": {}}, "expected flags, each with a list"),
    ({"about": "x", "arms": [ARM], "steps": 0}, "steps is 0, expected 1 or more"),
    ({"about": "x", "arms": [ARM], "evaluate": {"knn": "knn --knn-k '5"}}, "No closing quotation"),
    ({"about": "x", "arms": [ARM], "evaluate": {"knn": "knn --bogus 5"}}, "does not take these flags"),
    ({"about": "x", "arms": [ARM], "evaluate": {"knn": "knn --help"}}, "does not take these flags"),
    ({"about": "x", "arms": [ARM], "evaluate": {"knn": "knn --knn-k 0"}}, "--knn-k is 0"),
    ({"about": "x", "arms": [ARM], "evaluate": {"mine": "knn"}}, "result is called knn: call it so"),
    ({"about": "x", "arms": [ARM], "evaluate": {"linear": "linear"}}, "result is called linear-fast"),
    ({"about": "x", "arms": [ARM], "evaluate": {"few": "lowshot --labels 10%"}}, "result is called lowshot-10pct"),
    ({"about": "x", "arms": [ARM], "outcomes": [{"name": "o", "key": "linear.top1"}]}, "expected run.NAME, knn.NAME"),
    ({"about": "x", "arms": [ARM], "outcomes": [{"name": "o", "key": "knn.top1"}] * 2}, "two outcomes are called 'o'"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "message"), REFUSED)
def test_a_wrong_study_is_refused(table: dict[str, Any], message: str) -> None:
    """With the key, and where it stands."""
    with pytest.raises(BadInputError, match="file") as caught:
        build_study({"name": "mine", **table}, "file")
    assert message in str(caught.value)


@pytest.mark.parametrize("values", [{"pretext": "my.py:pairs"}, {"logger": ["my.py:connect"]}])
def test_a_study_that_names_code_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    """A file never names code that would be run."""
    for table in ({"values": values, "arms": [ARM]}, {"arms": [{**ARM, "values": values}]}):
        (tmp_path / "mine.json").write_text(json.dumps({"about": "x", **table}), encoding="utf-8")
        with pytest.raises(BadInputError, match="only a command line names such"):
            read_study(tmp_path / "mine.json")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """No such file, no TOML, no table; and a name that is nearly one of ours."""
    with pytest.raises(BadInputError, match="cannot be read"):
        read_study(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 3", encoding="utf-8")
    with pytest.raises(BadInputError, match="neither TOML nor JSON"):
        read_study(tmp_path / "bad.toml")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BadInputError, match="expected a table"):
        read_study(tmp_path / "list.json")
    with pytest.raises(BadInputError, match="did you mean momentum"):
        find_study("momentun")


def test_the_papers_numbers() -> None:
    """Those of FACTS.md, the recalled ones marked."""
    study = {arm.name: arm for arm in find_study("mechanisms").arms}
    assert (study["queue-4096"].paper, study["queue-4096"].recalled) == (59.0, False)
    assert (study["bank-4096"].paper, study["bank-4096"].recalled) == (56.5, True)
    assert math.isclose(max(arm.paper or 0 for arm in find_study("temperature").arms), 66.2)
    assert find_study("momentum").arms[0].fails
    assert PretrainConfig("d", Path()).hard_negatives == 0
