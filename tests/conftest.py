"""Checks every annotated shape while testing; fixtures that several tests need."""

import functools
import gc
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import jaxtyping
import pytest
import torch
from jaxtyping import AbstractArray, install_import_hook, jaxtyped

from tests.digits import use_few_digits

if TYPE_CHECKING:
    from moco.data.images import Images
    from moco.evaluation.features import Encoding

gc.set_threshold(20_000, 20, 100)  # by default a twentieth of all time goes into looking for cycles
if not torch.cuda.is_available():  # before anything imports Triton: its kernels are then run by numpy
    os.environ["TRITON_INTERPRET"] = "1"


def modules_with_shapes() -> list[str]:
    """The modules that write shapes into their types: to check a call takes longer than most others do their work."""
    root = Path(__file__).parents[1]
    paths = [path for path in (root / "moco").rglob("*.py") if path.name != "__init__.py"]
    return [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in paths
        if re.search(r"\b(jaxtyping|moco\.shapes)\b", path.read_text(encoding="utf-8"))
    ]


def has_shapes(annotation: object) -> bool:
    """Whether a shape is anywhere in an annotation; one that is not known yet may have some."""
    if isinstance(annotation, list):  # the arguments of a Callable
        return any(map(has_shapes, annotation))
    if inspect.isclass(annotation) and not get_args(annotation):
        return issubclass(annotation, AbstractArray)
    return isinstance(annotation, str) or any(map(has_shapes, get_args(annotation)))


CHECKED = 8
"""Calls of a function in a test whose shapes are checked, the first ones: a run makes the same calls in every step."""
calls = dict[Callable[..., Any], int]()
"""How many were checked in this test."""


def checked_where_shaped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """What is written before each function and class of those modules: only calls with shapes are worth a check."""

    def decorate(part: Any) -> Any:
        annotations = inspect.get_annotations(part.__init__ if inspect.isclass(part) else part)
        if not any(map(has_shapes, annotations.values())):
            return part
        checked = jaxtyped(part, typechecker=typechecker)
        if inspect.isclass(part):
            return checked

        @functools.wraps(part)
        def call(*values: Any, **named: Any) -> Any:
            if calls.get(call, 0) == CHECKED:
                return part(*values, **named)
            calls[call] = calls.get(call, 0) + 1
            return checked(*values, **named)

        return call

    return decorate


pytest.MonkeyPatch().setattr(jaxtyping, "jaxtyped", checked_where_shaped)
hook = install_import_hook(modules_with_shapes(), "beartype.beartype")
hook.__enter__()
import_module("tests.shallow")  # before other modules of moco take the function that it replaces
for ignored in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(ignored) is signal.SIG_IGN:  # a run honours that, and a shell's background jobs inherit it
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: tests of killed, stopped and waiting processes leave theirs idle."""
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return here + 1


LAST = ("data", "core", "explore", "transfer", "study", "curation", "bench", "examples")
"""Folders of many quick files, which fill the time of the worker that has the last long file of the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of which one takes long, as the Makefile lets files be given out in this order."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).parts[0] in LAST)


def pytest_collection_finish() -> None:
    """Keep what the libraries and the collected tests left out of every later garbage collection."""
    gc.freeze()


@pytest.fixture(autouse=True)
def check_shapes_anew() -> None:
    """The first calls in each test are checked."""
    calls.clear()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a test reads what it expects and no word about what takes long."""
    monkeypatch.setattr("moco.runtime.phases.PATIENCE", 3600.0)


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command without --threads takes one: the threads of several workers would wait in a loop for their cores."""
    monkeypatch.setattr("moco.runtime.device.cores", lambda: 1)


@pytest.fixture(autouse=True, scope="session")
def few_to_whiten_by() -> Iterator[None]:
    """A run whitens its features by a few images: to encode all of the digits takes as long as its steps."""
    from moco.evaluation.feature_whitening import ROWS, FeatureWhitener

    build = FeatureWhitener.build

    def build_of_few(images: "Images", most: int, how: "Encoding", temperature: float) -> FeatureWhitener:
        return build(images, most if most == ROWS else min(most, 200), how, temperature)  # ROWS: of an evaluation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureWhitener, "build", build_of_few)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Pixels are bit-equal where operations are not split over threads; loading processes have one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def few_digits(tiny_run: Path) -> Iterator[None]:
    """A third of the digits under their name, for commands that say nothing more of all of them; `tiny_run` saw all."""
    with pytest.MonkeyPatch.context() as patch:
        use_few_digits(patch)
        yield


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """CIFAR-10 as image folders, from $MOCO_DATA; what needs it is skipped elsewhere."""
    folder = Path(os.environ.get("MOCO_DATA", "")) / "cifar10"
    if not (folder / "train").is_dir():
        pytest.skip("CIFAR-10 is not in $MOCO_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps on the digits, for what reads runs; it has learned nothing."""
    from moco.commands.pretrain import run as pretrain
    from moco.pretraining.recipes import recipe

    out = tmp_path_factory.mktemp("runs") / "tiny"
    small = {
        "arch": "resnet10-w8",
        "dictionary": "queue",
        "image_size": 16,
        "max_steps": 2,
        "batch_size": 32,
        "queue_size": 64,
        "knn_every": 0,
    }
    pretrain(recipe("quick", data="digits", out=out, precision="fp32", device="cpu", threads=1, **small))
    return out
