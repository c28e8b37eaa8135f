"""What is said of flags without effect."""

import pytest

from moco.runtime.idle import Idle, warn_of_idle

RULES = (Idle(("queue_size", "lr"), lambda config: config and f"{config} says so"), Idle(("seed",), lambda config: ""))


@pytest.mark.parametrize(
    ("config", "given", "said"),
    [
        ("x", {"lr"}, ["--lr has no effect: x says so"]),
        ("x", {"lr", "queue_size", "out"}, ["--queue-size, --lr have no effect: x says so"]),
        ("", {"lr", "seed"}, []), ("x", {"seed", "out"}, []), ("x", set(), []),
    ],
)  # fmt: skip
def test_one_line_for_each_reason(
    config: str, given: set[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the flags in the rule's order."""
    warn_of_idle(config, given, RULES)
    assert capsys.readouterr().err.splitlines() == [f"moco: warning: {line}" for line in said]


def test_the_first_process_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Others are silent."""
    monkeypatch.setenv("RANK", "1")
    warn_of_idle("x", {"lr"}, RULES)
    assert not capsys.readouterr().err
