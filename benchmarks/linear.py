"""The fast linear protocol against scikit-learn's logistic regression on the same features, and against the papers'.

    python -m benchmarks.linear digits photos@64 --weights random runs/first [--paper 30 0.1] [--threads 1]

from the root of the repository. Each set is labelled images, with the side at which they are encoded behind an @ (else
32). A row has the accuracy of the fast protocol and its seconds, and scikit-learn's over C from 1e-4 to
100 and features as they are or standardised: the best on the test images, which nobody can choose, and that of the
choice by 5-fold cross-validation. Gains over both are paired, with 95% intervals. With `--paper` each rate has a row.
"""

import time
import warnings
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from moco.data.images import Labels
from moco.evaluation.config import PENALTIES, RANDOM, LinearConfig
from moco.evaluation.features import Encoding, encode
from moco.evaluation.linear import evaluate_linear
from moco.evaluation.penalty import divide, fit
from moco.evaluation.scores import paired_interval
from moco.evaluation.session import Subject, labels_of, load_labelled, named_weights, place_weights
from moco.runtime.device import resolve_precision, set_threads
from moco.runtime.machine import machine

RATIOS = tuple(10.0**power for power in range(-4, 3))
"""scikit-learn's C."""
FOLDS = 5


@dataclass(frozen=True)
class Options:
    """What to measure."""

    sets: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Labelled images, as for moco linear, each with @SIZE."""
    weights: tuple[str, ...] = (RANDOM,)
    """Weights, as for moco linear; random are those of a ResNet-18 of width 16."""
    paper: tuple[float, ...] = ()
    """Rates of the papers' protocol."""
    epochs: int = 100
    """Of the papers' protocol."""
    threads: int = 1
    """Threads inside an operation."""


def main() -> None:
    """Print a row for each set and each of the weights, as a table in Markdown."""
    options = tyro.cli(Options)
    set_threads(options.threads)
    columns = ["set", "weights", "fast", "penalty", "encoding (s)", "fitting (s)", "scikit-learn's best", "(s)", "gain"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for name in options.sets:
        for weights in options.weights:
            measure(name, weights, options)
    print(machine())


def measure(name: str, weights: str, options: Options) -> None:
    """Print the rows of one set and one of the weights."""
    data, _, side = name.partition("@")
    subject, images = open_subject(weights, int(side or 32)), load_labelled(data)
    truth = labels_of(images.test)
    started = time.perf_counter()
    train, test = (encode(subject.encoder, part, subject.how) for part in (images.train, images.test))
    encoding = time.perf_counter() - started
    labels, started = labels_of(images.train), time.perf_counter()
    found = fit(train[None], labels, len(images.classes), PENALTIES, divide(labels, train))
    fitting = time.perf_counter() - started
    fast = found.classifier.logits(test).argmax(1).numpy()
    started = time.perf_counter()
    best, chosen = by_scikit_learn(train.numpy(), labels, test.numpy(), truth)
    theirs = time.perf_counter() - started
    print(
        f"| {name} | {weights} | {percent(fast, truth)} | {found.penalty:g} | {encoding:.1f} | {fitting:.1f} "
        f"| {percent(best, truth)}, chosen {percent(chosen, truth)} | {theirs:.1f} "
        f"| {minus(fast, best, truth)}, chosen {minus(fast, chosen, truth)} |",
        flush=True,
    )
    for rate in options.paper:
        started = time.perf_counter()
        config = LinearConfig(weights, data, protocol="paper", epochs=options.epochs, lr=rate)
        paper, told = evaluate_linear(subject, images, config)
        seconds = time.perf_counter() - started
        print(
            f"| {name} | {weights} | the papers', lr {rate:g}: {paper.top1:.2f} | | {seconds:.0f} "
            f"| training loss {told['training_loss']:.4g}, suiting lr {told['suiting_lr']:g} | | "
            f"| {minus(fast, paper.predicted, truth)} |",
            flush=True,
        )


def open_subject(weights: str, size: int) -> Subject:
    """Load an encoder as the command does, on the CPU."""
    arch = "resnet18-w16" if weights == RANDOM else None
    found = place_weights(named_weights(weights, None, arch, "cifar", size, 0), "cpu")
    precision = resolve_precision("auto", "cpu")
    return Subject(found, Encoding(size, found.mean, found.std, precision=precision, unit=False))


def by_scikit_learn(
    train: np.ndarray[Any, Any], labels: Labels, test: np.ndarray[Any, Any], truth: Labels
) -> tuple[Labels, Labels]:
    """Predict the test images by the classifier that is best on them, and by the one that cross-validation chooses."""
    mean, deviation = train.mean(0), train.std(0)
    deviation[deviation == 0] = 1
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    found = []
    for shift, scale in ((0.0, 1.0), (mean, deviation)):
        x, y = (train - shift) / scale, (test - shift) / scale
        for ratio in RATIOS:
            model = LogisticRegression(C=ratio, max_iter=3000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                held_out = cross_val_predict(model, x, labels, cv=folds)
                predicted = model.fit(x, labels).predict(y)
            found.append((float((predicted == truth).mean()), float((held_out == labels).mean()), predicted))
    best = max(found, key=lambda one: one[0])
    chosen = max(found, key=lambda one: one[1])
    return best[2], chosen[2]


def percent(predicted: Labels, truth: Labels) -> str:
    """Accuracy."""
    return f"{100 * float((predicted == truth).mean()):.2f}"


def minus(ours: Labels, theirs: Labels, truth: Labels) -> str:
    """The difference of two accuracies with its paired interval."""
    found = paired_interval((ours == truth).tolist(), (theirs == truth).tolist())
    return f"{found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
