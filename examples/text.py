"""Documents with known sources: which package is a docstring from? Compared with random weights and TF-IDF.

`python examples/text.py OUT` takes the docstrings of packages that are installed with moco, trains on them without
their labels, and classifies those that it has not seen by their nearest neighbours. Then it cuts these in two, and lets
each first half find the second half of the same docstring. It needs no network.
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
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity
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
    found = find_halves(data / "test", given.out / "halves", trained)
    print("first halves that find their second half: " + ", ".join(f"{by} {share:.1f}%" for by, share in found.items()))
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


def find_halves(documents: Path, out: Path, trained: Path) -> dict[str, float]:
    """Say how often the first half of a document is nearest to its own second half: percent, for each way."""
    sides, texts = (out / "first", out / "second"), list[list[str]]()
    paths = sorted(documents.rglob("*.txt"), key=lambda path: path.name)  # the order of a folder without classes
    whole = {path.name: path.read_text(encoding="utf-8") for path in paths}
    for second, side in enumerate(sides):
        side.mkdir(parents=True, exist_ok=True)
        texts.append([text[len(text) // 2 :] if second else text[: len(text) // 2] for text in whole.values()])
        for name, text in zip(whole, texts[-1], strict=True):
            (side / name).write_text(text, encoding="utf-8")
    ways: dict[str, dict[str, Any]] = {
        "trained": {"weights": trained},
        "random weights": {"weights": "random", "like": trained},
    }
    found = {}
    for by, weights in ways.items():
        features = []
        for side in sides:
            run("embed", **weights, data=side, out=out / "features.npz")
            with np.load(out / "features.npz") as file:
                features.append(file["features"])
        found[by] = match(*(side - side.mean(0) for side in features))
    words = TfidfVectorizer(sublinear_tf=True).fit([*texts[0], *texts[1]])
    return {**found, "TF-IDF": match(*(words.transform(side).toarray() for side in texts))}


def match(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> float:
    """Say how many rows of `first` are nearest, by cosine, to the same row of `second`: percent."""
    nearest = cosine_similarity(first, second).argmax(1)
    return 100 * float(np.mean(nearest == np.arange(len(first))))


if __name__ == "__main__":
    try:
        main()
    except StoppedError as stopped:  # Ctrl-C or a scheduler: all is saved, and the same command goes on
        print(stopped, file=sys.stderr)
        sys.exit(75)
