"""Documents with known sources: which package is a docstring from? Compared with random weights and TF-IDF.

`python examples/text.py OUT` takes the docstrings of packages that are installed with moco, trains on them without
their labels, and classifies those that it has not seen by their nearest neighbours. It needs no network.
"""

import argparse
import ast
import contextlib
import hashlib
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier

from moco import StoppedError, run

PACKAGES = (
    "numpy",
    "scipy",
    "sklearn",
    "torch",
    "torchvision",
    "timm",
    "huggingface_hub",
    "tensorboard",
    "PIL",
    "rich",
)
SHORTEST, MOST = 300, 400
"""Characters of a docstring, and how many of a package are taken."""
NEIGHBOURS = 10


def main() -> None:
    """Write the documents, train, and say what each way of comparing them reaches."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path, help="Folder for the documents and the run.")
    arguments.add_argument("--epochs", type=int, default=10)
    arguments.add_argument("--most", type=int, default=MOST, help="Docstrings of each package.")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    data, trained = given.out / "documents", given.out / "run"
    for package in PACKAGES:
        write_docstrings(package, data, given.most)
    run("pretrain", "text", data=data, out=trained, epochs=given.epochs, seed=given.seed)
    figures = run("knn", weights=trained, data=data, knn_k=NEIGHBOURS)
    print(f"trained {figures['top1']:.1f}%, random weights {figures['baselines']['random']['top1']:.1f}%, ", end="")
    print(f"TF-IDF, which counts words, {classify_by_words(data):.1f}%, guessing {100 / len(PACKAGES):.0f}%")


def write_docstrings(package: str, data: Path, most: int) -> None:
    """Write the docstrings of a package as files data/train/PACKAGE/*.txt, and a fifth of them below data/test."""
    for text in list(dict.fromkeys(find_docstrings(package)))[:most]:
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder = data / ("test" if int(name, 16) % 5 == 0 else "train") / package
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / f"{name}.txt").exists():  # by an earlier call, whose run goes on with the same files
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def find_docstrings(package: str) -> Iterator[str]:
    """Find the docstrings of all functions and classes of a package, which is read and not run, without its name."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        with warnings.catch_warnings(), contextlib.suppress(SyntaxError):  # a file for a newer Python
            warnings.simplefilter("ignore")  # about the packages' own strings
            yield from _long_docstrings(ast.parse(path.read_bytes()), package)


def _long_docstrings(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            text = (ast.get_docstring(node) or "").replace(package, "")
            if len(text) >= SHORTEST:
                yield text


def classify_by_words(data: Path) -> float:
    """Classify the test documents by the TF-IDF of their words and the same number of neighbours: percent."""
    texts, labels = {}, {}
    for split in ("train", "test"):
        paths = sorted((data / split).rglob("*.txt"))
        texts[split] = [path.read_text(encoding="utf-8") for path in paths]
        labels[split] = np.array([path.parent.name for path in paths])
    words = TfidfVectorizer(sublinear_tf=True)
    bank = words.fit_transform(texts["train"])
    found = KNeighborsClassifier(NEIGHBOURS, weights="distance", metric="cosine").fit(bank, labels["train"])
    return 100 * float(np.mean(found.predict(words.transform(texts["test"])) == labels["test"]))


if __name__ == "__main__":
    try:
        main()
    except StoppedError as stopped:  # Ctrl-C or a scheduler: all is saved, and the same command goes on
        print(stopped, file=sys.stderr)
        sys.exit(75)
