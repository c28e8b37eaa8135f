"""Few labels: what is drawn, what is refused, and that both ways of using them learn something."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco.cli import main
from moco.commands.lowshot import run
from moco.errors import BadInputError
from moco.evaluation.config import PENALTIES, LowshotConfig
from moco.evaluation.label_share import LabelShare, read_label_share
from moco.evaluation.lowshot import draw_rows
from tests.slow import slow

pytestmark = pytest.mark.usefixtures("few_digits")
CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1}
NAMES = ("a", "b", "c")
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 60, 150]))


@pytest.mark.parametrize(
    ("text", "expected", "name"),
    [
        ("1%", LabelShare(1.0, None), "1pct"),
        ("10%", LabelShare(10.0, None), "10pct"),
        ("0.5%", LabelShare(0.5, None), "0.5pct"),
        ("100%", LabelShare(100.0, None), "100pct"),
        ("5", LabelShare(None, 5), "5"),
    ],
)
def test_labels_are_a_share_or_a_number(text: str, expected: LabelShare, name: str) -> None:
    """And name the file."""
    assert read_label_share(text) == expected
    assert read_label_share(text).name == name


@pytest.mark.parametrize("text", ["0", "0%", "101%", "-1", "1.5", "ten", "", "%", "1 %", "../x"])
def test_other_labels_are_refused(text: str) -> None:
    """With what was expected."""
    with pytest.raises(BadInputError, match="expected a share of each class"):
        read_label_share(text)


@pytest.mark.parametrize(
    ("text", "counts"), [("10%", [4, 6, 15]), ("1%", [0, 1, 2]), ("2.5%", [1, 2, 4]), ("7", [7, 7, 7])]
)
def test_draws_are_stratified(text: str, counts: list[int]) -> None:
    """Of each class its share, halves rounded up, without a row twice; a class of which none is left is an error."""
    if 0 in counts:
        with pytest.raises(BadInputError, match="none of the 40 training images of class 'a'"):
            draw_rows(LABELS, NAMES, read_label_share(text), 0, 0)
        return
    rows = draw_rows(LABELS, NAMES, read_label_share(text), 0, 0)
    assert np.bincount(LABELS[rows], minlength=3).tolist() == counts
    assert len(set(rows.tolist())) == len(rows)


def test_draws_are_a_pure_function_of_seed_and_number() -> None:
    """The same again, others for another draw or seed; every row has its turn."""
    draws = [draw_rows(LABELS, NAMES, read_label_share("10%"), 0, draw) for draw in range(60)]
    assert np.array_equal(draws[1], draw_rows(LABELS, NAMES, read_label_share("10%"), 0, 1))
    assert set(draws[0].tolist()) != set(draws[1].tolist())
    assert set(draws[0].tolist()) != set(draw_rows(LABELS, NAMES, read_label_share("10%"), 1, 0).tolist())
    assert len(set(np.concatenate(draws).tolist())) > 240  # each is missed with probability 0.9^60 = 0.2%


def test_too_many_of_a_class() -> None:
    """Names it, and how many there are."""
    with pytest.raises(BadInputError, match="class 'a' has only 40 training images: give at most 40"):
        draw_rows(LABELS, NAMES, read_label_share("41"), 0, 0)


@pytest.mark.parametrize("labels", ["1", slow("15%")])
def test_the_command(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: str) -> None:
    """Mean and spread of both ways, for the run and for baselines; the file in the run."""
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    flags = ["--weights", str(copy), "--data", "digits", "--labels", labels, "--draws", "2", "--finetune-steps", "3"]
    flags += [
        "--views",
        "1",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--batch-size",
        "16",
        "--json",
        "--penalties",
        "0.1",
        "0.01",
    ]
    assert main(["lowshot", *flags]) == 0
    last, err = capsys.readouterr()
    result, lines = json.loads(last), err.splitlines()
    assert [line.split(",")[0] for line in lines] == [str(copy), "random weights", "raw pixels"]
    assert result["images"] == (10 if labels == "1" else 73)  # 15% of each digit's, rounded
    for found in (result, result["baselines"]["random"]):
        for way in ("linear", "finetune"):
            assert len(found[way]["each"]) == 2
            assert found[way]["mean"] == pytest.approx(np.mean(found[way]["each"]), abs=1e-3)
            assert found[way]["deviation"] == pytest.approx(np.std(found[way]["each"], ddof=1), abs=1e-3)
    assert result["baselines"]["pixels"].keys() >= {"linear"}
    assert "finetune" not in result["baselines"]["pixels"]
    assert result["linear"]["mean"] > (20 if labels == "1" else 35)  # chance is 10
    assert all(penalty in PENALTIES for penalty in result["linear"]["penalty"])
    name = "lowshot-1.json" if labels == "1" else "lowshot-15pct.json"
    stored = json.loads((copy / "evaluations" / name).read_text())
    assert stored["linear"] == result["linear"]


def test_a_share_that_leaves_a_class_empty(tiny_run: Path) -> None:
    """Is reported before anything is trained."""
    with pytest.raises(BadInputError, match=r"--labels 0\.1%: that leaves none of the"):
        run(LowshotConfig(str(tiny_run), "digits", labels="0.1%", **CPU))


def test_weights_to_compare_with(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--baseline W`: both ways, from the same draws, at their own size; the encoder's lead with its interval."""
    copy, other = (str(shutil.copytree(tiny_run, tmp_path / name)) for name in ("run", "other"))
    flags = ["--weights", copy, "--data", "digits", "--labels", "2", "--draws", "2", "--finetune-steps", "2"]
    flags += ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--json", "--no-baseline"]
    assert main(["lowshot", *flags, "--baseline", other, "--baseline", "pixels"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert list(result["baselines"]) == ["pixels", other]
    same, pixels = (result["baselines"][name] for name in (other, "pixels"))
    for way in ("linear", "finetune"):
        assert same[way]["each"] == result[way]["each"]
        assert (same[way]["difference"], same[way]["low"], same[way]["high"]) == (0, 0, 0)
    lead = result["linear"]["mean"] - pixels["linear"]["mean"]
    assert pixels["linear"]["difference"] == pytest.approx(lead, abs=2e-3)
    assert pixels["linear"]["low"] < lead < pixels["linear"]["high"]
    assert "the encoder +0.00 points, 95% interval +0.00 to +0.00" in err
