"""The classifier that SGD trains starts from weights that are a pure function of the seed."""

import torch

from moco.evaluation.classifiers import first_weights, new_classifier


def test_first_weights_are_the_authors_and_those_of_the_seed() -> None:
    """N(0, 0.01^2) whatever was drawn before, biases of 0; another seed gives others."""
    found = []
    for seed in (0, 0, 1):
        torch.rand(3)
        found.append(new_classifier(400, 50, seed))
    assert torch.equal(found[0].weight, found[1].weight)
    assert torch.equal(found[0].weight, first_weights(400, 50, 0).T)
    assert not torch.equal(found[0].weight, found[2].weight)
    assert abs(found[0].weight.std().item() - 0.01) < 2e-4
    assert not found[0].bias.any()
