"""Training that is saved and restored goes on bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from moco.core.batchnorm import group_batch_norms
from moco.errors import BadInputError
from moco.runtime import state as states
from moco.runtime.checkpoint import load_tensors, save_tensors
from moco.runtime.scaling import IDLE
from moco.runtime.state import load_state_tensors, state_tensors


class Training:
    """A small net and its optimiser; every step draws its images and its dropout from torch's random state."""

    optimizer: torch.optim.Optimizer

    def __init__(self, seed: int, width: int = 6, *, adamw: bool = False) -> None:
        torch.manual_seed(seed)
        features = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3)
        self.net = nn.Sequential(*features, nn.Flatten(), nn.Linear(width * 36, 4)).to(
            memory_format=torch.channels_last
        )
        group_batch_norms(self.net, 2)
        self.modules = {"f_q": self.net, "f_k": nn.BatchNorm1d(4)}
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True)
        if adamw:
            self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.01, fused=True)

    def steps(self, count: int) -> None:
        """Train."""
        for _ in range(count):
            y = self.modules["f_k"](self.net(torch.randn(4, 3, 8, 8)))
            y.pow(3).mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """A copy of everything that changes."""
        return {name: value.clone() for name, value in state_tensors(self.modules, self.optimizer, IDLE).items()}


@pytest.mark.parametrize("adamw", [False, True])
@pytest.mark.parametrize("before", [0, 3])
def test_restored_training_is_bit_equal(tmp_path: Path, before: int, adamw: bool) -> None:
    """Training that was saved, and restored into other weights, ends as training that never stopped."""
    uninterrupted = Training(seed=0, adamw=adamw)
    uninterrupted.steps(before)
    save_tensors(tmp_path / "state", uninterrupted.state(), {})
    uninterrupted.steps(3)
    expected = uninterrupted.state()

    restored = Training(seed=1, adamw=adamw)
    restored.steps(1)
    load_state_tensors(load_tensors(tmp_path / "state")[0], restored.modules, restored.optimizer, IDLE, "state")
    restored.steps(3)
    found = restored.state()

    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_kind_of_state_is_there() -> None:
    """Weights, running statistics, momenta and the random state have names of their own."""
    training = Training(seed=0)
    training.steps(1)
    state = training.state()
    assert {"f_q.0.weight", "f_q.1.running_var", "f_k.running_mean", "sgd.0", "sgd.5", "random"} <= state.keys()
    assert "sgd.6" not in state
    assert state["sgd.0"].shape == state["f_q.0.weight"].shape
    assert state["sgd.0"].abs().max() > 0
    other = Training(seed=0, adamw=True)
    other.steps(2)
    state = other.state()
    assert {"adamw.0.exp_avg", "adamw.5.exp_avg_sq", "adamw.0.step"} <= state.keys()
    assert "sgd.0" not in state
    assert float(state["adamw.0.step"]) == 2


def test_a_state_of_another_optimiser_is_refused() -> None:
    """By the name of the first tensor that it has and the run has not."""
    training = Training(seed=0)
    with pytest.raises(BadInputError, match=r"state: adamw.0.exp_avg expected nothing, found \(6, 3, 3, 3\)"):
        load_state_tensors(Training(0, adamw=True).state(), training.modules, training.optimizer, IDLE, "state")


@pytest.mark.parametrize(("name", "value", "message"), [
    ("f_q.4.weight", torch.zeros(4, 108), r"f_q.4.weight expected \(4, 216\), found \(4, 108\)"),
    ("f_k.weight", None, r"f_k.weight expected \(4,\), found nothing"),
    ("dictionary.keys", torch.zeros(8, 4), r"dictionary.keys expected nothing, found \(8, 4\)"),
    ("sgd.1", torch.zeros(7), r"sgd.1 expected \(6,\), found \(7,\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(name: str, value: Tensor | None, message: str) -> None:
    """The error names the file, the tensor, what was expected and what was found; nothing is changed."""
    training, other = Training(seed=0), Training(seed=1)
    before, given = training.state(), other.state()
    if value is None:
        del given[name]
    else:
        given[name] = value
    with pytest.raises(BadInputError, match=f"run/000000003.safetensors: {message}"):
        load_state_tensors(given, training.modules, training.optimizer, IDLE, "run/000000003.safetensors")
    now = training.state()
    del now["random"], before["random"]  # the state of the process, which the other training has moved
    assert all(torch.equal(now[key], before[key]) for key in before)


def test_another_width_is_refused_by_name() -> None:
    """A checkpoint of another architecture names the first tensor that differs."""
    training = Training(seed=0)
    with pytest.raises(BadInputError, match=r"wide: f_q.0.bias expected \(6,\), found \(9,\)"):
        load_state_tensors(Training(seed=0, width=9).state(), training.modules, training.optimizer, IDLE, "wide")


def test_the_random_state_of_a_gpu_is_saved_where_one_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And put back; a checkpoint from before it was saved leaves it as it is, as does one that a CPU goes on from."""
    put = list[Tensor]()
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([7, 9], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", put.append)
    training = Training(seed=0)
    without = training.state()
    assert "random.cuda" not in without
    monkeypatch.setattr(states, "_on_gpu", lambda modules: True)
    saved = training.state()
    assert saved["random.cuda"].tolist() == [7, 9]
    load_state_tensors(without, training.modules, training.optimizer, IDLE, "older")
    assert not put
    load_state_tensors(saved, training.modules, training.optimizer, IDLE, "newer")
    assert [value.tolist() for value in put] == [[7, 9]]
    monkeypatch.setattr(states, "_on_gpu", lambda modules: False)
    load_state_tensors(saved, training.modules, training.optimizer, IDLE, "on a CPU")
    assert len(put) == 1
