"""Errors of weights begin with the flag that the user gave, whichever it was and whatever is wrong."""

from pathlib import Path

import pytest
import torch

from moco.cli import main

WRONG = {
    "nothing": "no such run or file",
    "text.txt": "a text file, not weights",
    "empty.pth": "empty, not weights",
    "folder": "a folder without encoder.safetensors",
    "half.safetensors": "",
    "nan.pth": "",
    "timm:resnet17": "resnet",
    "timm:resnet18@nothing": "there is no file nothing",
    "torchvision:resnet17": "torchvision has no weights of that name",
    "hf://x": "expected hf://OWNER/NAME",
    "stem=odd@x": "expected stem=NAME@FILE",
}
ONE = ["--device", "cpu", "--threads", "1", "--workers", "0"]


@pytest.fixture
def wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders of these names, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("some words\n")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "half.safetensors").write_bytes(bytes(100))
    torch.save({"weight": torch.full((3, 3), torch.nan)}, "nan.pth")


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("flag", ["--weights", "--baseline", "--teacher", "--init-weights", "--like"])
def test_the_flag_of_the_user_is_named(
    flag: str, value: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the error is about a name, a file, or what lies in it."""
    if flag == "--like" and value.startswith("hf:"):
        pytest.skip("a path of a run")
    pretrain = ["pretrain", "taught" if flag == "--teacher" else "quick", "--data", "digits", "--out", "run", *ONE]
    knn = ["knn", "--data", "digits", *ONE]
    arguments = {
        "--weights": knn, "--baseline": [*knn, "--weights", str(tiny_run), "--no-baseline"],
        "--teacher": pretrain, "--init-weights": pretrain, "--like": [*knn, "--weights", "random"],
    }[flag]  # fmt: skip
    assert main([*arguments, flag, value]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"moco: error: {flag} {value}"), said
    assert WRONG[value] in said
    others = {"--weights", "--baseline", "--teacher", "--init-weights", "--like"} - {flag}
    assert not any(f"{other} {value}" in said for other in others)
