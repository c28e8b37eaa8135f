"""A third of scikit-learn's digits under their name, for what says nothing more of all of them."""

from types import SimpleNamespace

import pytest


def use_few_digits(patch: pytest.MonkeyPatch) -> None:
    """Let `--data digits` be 480 images to train on and 120 to test on."""
    from sklearn import datasets

    digits = datasets.load_digits()
    few = SimpleNamespace(images=digits.images[:600], target=digits.target[:600], target_names=digits.target_names)
    patch.setattr(datasets, "load_digits", lambda: few)
