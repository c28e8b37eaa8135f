"""The house rules: imports go downwards only, modules and functions stay short, and nothing executes what it reads."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

import moco

ROOT = Path(moco.__file__).parent
DESIGN = (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")
ROWS = tuple(re.findall(r"^\| `(\w+)` \|", DESIGN.partition("## Packages")[2], re.MULTILINE))
"""The packages from the top, as docs/design.md lists them."""

CORE_TAKES = (
    "moco.errors", "moco.shapes", "moco.runtime.distributed", "moco.runtime.exchange", "moco.runtime.randomness",
    "moco.core",
)  # fmt: skip
REPORT_TAKES = (
    "moco.errors", "moco.runtime.configfile", "moco.runtime.fields", "moco.runtime.folder", "moco.runtime.records",
    "moco.pretraining.config", "moco.pretraining.health", "moco.pretraining.recipes", "moco.report",
)  # fmt: skip
STRANGERS = {("pretraining", "evaluation"), ("evaluation", "pretraining")}
"""Rooms that never import each other, though their order would allow one of the ways."""

VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
LONGEST_MODULE = 300
LONGEST_FUNCTION = 70


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The syntax of every module: made for the first test that asks, so that other workers go without."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room(name: str) -> str:
    """The part of a dotted name that stands in ROWS."""
    return name.split(".")[1]


def imports(name: str) -> Iterator[tuple[str, int]]:
    """The modules of this package that a module imports, anywhere in it, and the lines."""
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [module if module in MODULES else str(node.module) for module in inside]
        else:
            continue
        for module in found:
            if module.split(".")[0] == "moco":
                yield module, node.lineno


def test_the_walk_sees_imports() -> None:
    """Names imported from a module, modules imported from a package, and imports inside functions are all found."""
    assert "moco.core.dictionary" in {module for module, _ in imports("moco.core.loss")}
    assert "moco.runtime.distributed" in {module for module, _ in imports("moco.runtime.state")}


def test_imports_go_downwards() -> None:
    """A module imports only from its own room or from one above it; the package itself may export from any."""
    for name in MODULES.keys() - {"moco"}:
        assert room(name) in ROWS, f"{name} has no place in ROWS"
        for module, line in imports(name):
            check_import(name, module, f"{MODULES[name]}:{line}")


def check_import(name: str, module: str, where: str) -> None:
    """One module may import another."""
    assert module != "moco", f"{where} imports what the package exports: import it from where it is made"
    assert ROWS.index(room(module)) <= ROWS.index(room(name)), f"{where} imports {module}, from further down"
    assert (room(name), room(module)) not in STRANGERS, f"{where}: {name} and {module} must not know each other"
    if room(name) == "core":
        taken = any(module == allowed or module.startswith(f"{allowed}.") for allowed in CORE_TAKES)
        assert taken, f"{where} imports {module}: the method takes only {', '.join(CORE_TAKES)}"
    if room(name) == "report":
        taken = any(module == allowed or module.startswith(f"{allowed}.") for allowed in REPORT_TAKES)
        assert taken, f"{where} imports {module}: the report reads run folders, and takes {', '.join(REPORT_TAKES)}"


@pytest.mark.parametrize(
    ("name", "module", "reason"),
    [
        ("moco.data.folder", "moco", "imports what the package exports"),
        ("moco.data.folder", "moco.commands.knn", "from further down"),
        ("moco.evaluation.knn", "moco.pretraining.loop", "must not know each other"),
        ("moco.core.loss", "moco.runtime.files", "the method takes only"),
        ("moco.report.page", "moco.core.loss", "the report reads run folders"),
    ],
)
def test_a_wrong_import_is_found(name: str, module: str, reason: str) -> None:
    """Each rule refuses what it is there for."""
    with pytest.raises(AssertionError, match=reason):
        check_import(name, module, "here")


def test_modules_are_short_and_named_for_what_they_hold() -> None:
    """At most 300 lines, and no drawer for everything."""
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > LONGEST_MODULE} == {}
    assert [name for name in MODULES if VAGUE_NAMES & set(name.split("."))] == []


def test_functions_are_short() -> None:
    """At most 70 lines, from the decorator to the end."""
    lengths = {}
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                assert node.end_lineno is not None
                lengths[f"{name}.{node.name}:{first}"] = node.end_lineno - first + 1
    assert max(lengths.values()) > LONGEST_FUNCTION // 2  # they are measured
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def test_a_public_function_name_stands_in_one_module() -> None:
    """A name says what its function does, so two functions never share one; each command has its own `run`."""
    places: dict[str, list[str]] = {}
    for name, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert {name for name in places.pop("run") if not name.startswith("moco.commands.")} <= {"moco.cli"}
    assert {function: modules for function, modules in places.items() if len(modules) > 1} == {}


def test_there_is_no_trainer() -> None:
    """The loop is a function."""
    nodes = [node for tree in trees().values() for node in ast.walk(tree)]
    classes = [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    assert "Queue" in classes
    assert [found for found in classes if "trainer" in found.lower()] == []


FROM_PICKLE = {"moco.interop.unpickling": {"UnpicklingError"}, "moco.interop.detectron2": {"dumps"}}
"""The name of an error, and the writing of a file that detectron2 reads: all that is taken from pickle, and where."""
LOADS_WEIGHTS = {"moco.interop.unpickling", "moco.interop.targets"}
"""They call torch.load, with weights_only=True in so many words."""


def test_nothing_executes_what_it_reads() -> None:
    """No pickle, eval, exec or torch.load but of weights only; `model.eval()` is another thing."""
    for name, tree in trees().items():
        check_execution(name, tree)


def check_execution(name: str, tree: ast.Module) -> None:
    """One module executes nothing that it reads."""
    weights_only = [
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and name in LOADS_WEIGHTS
        and any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
    ]
    for node in ast.walk(tree):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            assert {alias.name for alias in node.names} <= FROM_PICKLE.get(name, set()), where
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = {module, *(alias.name for alias in node.names)}
            assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, where
            assert not (module == "torch" and "load" in names), where
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec"}, where
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node not in weights_only:
            assert (node.value.id, node.attr) != ("torch", "load"), where


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "from torch import load", "exec('1')", "x = torch.load('f')"],
)
def test_what_would_execute_is_found(source: str) -> None:
    """Each rule refuses what it is there for, also where weights may be loaded."""
    check_execution("moco.interop.unpickling", ast.parse("x = torch.load('f', weights_only=True)\nmodel.eval()"))
    with pytest.raises(AssertionError, match="unpickling:1"):
        check_execution("moco.interop.unpickling", ast.parse(source))


TESTING = (ROOT.parent / "docs" / "testing.md").read_text(encoding="utf-8")
TESTS = ROOT.parent / "tests"


def test_what_the_page_of_tests_names_exists() -> None:
    """docs/testing.md leads from behaviours and modules to tests, whose paths are below tests/."""
    missing = []
    for path, function in sorted(set(re.findall(r"`((?:\w+/)*\w+\.py)(?:::(\w+))?`", TESTING))):
        file = (ROOT.parent if path.startswith(("moco/", "tests/")) else TESTS) / path
        content = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not content or not re.search(rf"^def {function}\(" if function else "", content, re.MULTILINE):
            missing.append(f"{path}::{function}" if function else path)
    assert missing == []


def test_every_module_has_a_test() -> None:
    """At its own path, or where docs/testing.md says; what only gathers a room's names has nothing to test."""
    paths = [path.relative_to(ROOT) for path in MODULES.values() if path.name != "__init__.py"]
    elsewhere = [path for path in paths if not (TESTS / path.parent / f"test_{path.name}").is_file()]
    assert [path for path in elsewhere if f"`moco/{path.as_posix()}`" not in TESTING] == []


def test_shapes_are_checked_while_testing() -> None:
    """A matrix of other width than the keys is refused before anything is computed (tests/conftest.py)."""
    from moco.core.dictionary import Keys
    from moco.core.loss import info_nce

    q = torch.zeros(4, 8)
    with pytest.raises(jaxtyping.TypeCheckError, match="info_nce"):
        info_nce(q[0], Keys(q, q), 0.1)


def test_the_command_line_starts_without_torch() -> None:
    """`moco --help` and a mistake in a flag are answered at once: what is heavy is imported when a command runs."""
    program = (
        "import sys\nfrom moco.cli import main\n"
        "assert main(['knn', '--weights', 'w', '--data', 'd', '--knn-k', '0']) == 2\n"
        "assert main(['pretrain', 'quick', '--data', 'd', '--out', 'r', '--lr', '-1']) == 2\n"
        "assert main(['pretrain', 'auto', '--data', 'd', '--out', 'r', '--minutes', 'x']) == 2\n"
        "print(sorted({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    assert [line.partition(" is ")[0] for line in done.stderr.splitlines()][:2] == [
        "moco: error: --knn-k", "moco: error: --lr",
    ]  # fmt: skip


PUBLIC = {
    "RECIPES", "BadInputError", "Contrast", "DivergedError", "Encoder", "EncoderPair", "EncoderPlan", "Encoding",
    "InBatch", "Keys", "KnnConfig", "MemoryBank", "PretrainConfig", "Queue", "Weights", "encode", "frame", "info_nce",
    "load", "load_weights", "recipe", "weighted_knn",
    "EmbedConfig", "FinetuneConfig", "FrozenEncoder", "LinearConfig", "LowshotConfig", "StoppedError", "load_encoder",
    "Classifier", "load_classifier", "run",
}  # fmt: skip


def test_the_exported_names() -> None:
    """What `import moco` gives is a promise: it changes only when this list is changed."""
    assert set(moco.__all__) == PUBLIC
    for name in PUBLIC - {"RECIPES"}:
        assert getattr(moco, name).__name__ == name
        assert getattr(moco, name).__doc__
    unknown = "queue"
    with pytest.raises(AttributeError, match=unknown):
        getattr(moco, unknown)
