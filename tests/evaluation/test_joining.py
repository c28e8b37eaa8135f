"""Joined encoders: what is chosen for features that complement each other, and which encoders cannot be joined."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.forms import Form
from moco.errors import BadInputError
from moco.evaluation.feature_whitening import fit_whitening
from moco.evaluation.joining import Choice, Judge, backbone_of, choose, join_encoders, plan_parts
from moco.evaluation.knn import count_right
from moco.evaluation.session import backbone_digest
from moco.interop.checkpoints import Weights, random_weights

GREY = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
JUDGE = Judge(np.repeat(np.arange(4), 30), 4, 0.1)
"""Of 120 images in four classes."""


def halves() -> tuple[Tensor, Tensor]:
    """Features of which the first tells classes 0, 1 from 2, 3, and the second even ones from odd ones."""
    draw = torch.Generator().manual_seed(0)
    label = torch.from_numpy(JUDGE.labels)
    noise = [0.6 * torch.randn(len(label), 6, generator=draw) for _ in range(2)]
    return F.one_hot(label // 2, 6) * 2.0 + noise[0], F.one_hot(label % 2, 6) * 2.0 + noise[1]


def weights(arch: str = "resnet10-w8", size: int = 16, **more: object) -> Weights:
    """An encoder with random weights."""
    made = random_weights(EncoderPlan(arch, image_size=size), 0, *GREY)
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def test_together_they_know_what_neither_knows() -> None:
    """Each half alone is right for about one image in two, both together for most; the score is a plain loop's."""
    first, second = halves()
    choice, alone = choose((first, second), JUDGE)
    assert choice.top1 is not None
    assert max(alone) < 65 < 85 < choice.top1
    own = [z if one is None else one(z) for z, one in zip((first, second), choice.parts, strict=True)]
    z = torch.cat([F.normalize(part) for part in own], 1)
    unit = F.normalize(z if choice.whole is None else choice.whole(z)).numpy()
    similarity = unit @ unit.T
    best = 0
    for k in (1, 3, 5, 10, 20, 50, 100):
        right = 0
        for row, line in enumerate(similarity):
            others = [other for other in np.argsort(-line) if other != row][:k]
            votes = np.zeros(4)
            for other in others:
                votes[JUDGE.labels[other]] += np.exp((line[other] - 1) / 0.1)
            right += int(votes.argmax() == JUDGE.labels[row])
        best = max(best, right)
    assert choice.top1 == pytest.approx(100 * best / 120)


def test_noise_is_not_preferred() -> None:
    """Beside features that tell all classes, random ones gain nothing: the score is no higher than that of the best."""
    label = torch.from_numpy(JUDGE.labels)
    draw = torch.Generator().manual_seed(0)
    good = F.one_hot(label, 6) * 3.0 + 0.1 * torch.randn(120, 6, generator=draw)
    choice, alone = choose((good, torch.randn(120, 6, generator=draw)), JUDGE)
    assert alone[0] == 100
    assert choice.top1 is not None
    assert choice.top1 <= alone[0]


def test_without_labels() -> None:
    """Parts stay plain; the whole is whitened where there are half as many images as numbers."""
    first, second = halves()
    choice, alone = choose((first, second), None)
    assert (alone, choice.parts, choice.top1) == ([], (None, None), None)
    assert choice.whole is not None
    assert choose((first[:5], second[:5]), None)[0].whole is None


@pytest.mark.parametrize("parts_too", [False, True])
@pytest.mark.parametrize("whole_too", [False, True])
def test_the_encoder_gives_what_was_chosen(parts_too: bool, whole_too: bool) -> None:
    """Its features are those that the choice was made by, with and without each whitening."""
    both = [weights(), weights(size=12)]
    parts = plan_parts(["a", "b"], both, [16, 12])
    start = join_encoders(both, parts, 16)
    x = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = backbone_of(start.encoder.eval()).plain(x)
        own = [fit_whitening(z)[0] if parts_too else None for z in plain]
        z = torch.cat([F.normalize(y if one is None else one(y)) for y, one in zip(plain, own, strict=True)], 1)
        whole = fit_whitening(z)[0] if whole_too else None
        expected = z if whole is None else whole(z)
        made = join_encoders(both, parts, 16, Choice(tuple(own), whole)).encoder.eval()
        assert torch.allclose(made.reading("backbone")(x), expected, atol=1e-3)
    assert made.whitens is whole_too


def test_each_part_has_its_own_size() -> None:
    """Whatever the sizes of the others are."""
    parts = plan_parts(["a", "b"], [weights(size=24), weights(size=128)], [24, 96])
    assert [(part.image_size, part.side) for part in parts] == [(24, 24), (128, 96)]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (weights("bytes-ngrams", 256), "--weights b: takes documents"),
        (weights(form=Form(3, "uint16", *GREY)), "expected encoders of the same images"),
        (weights(white_level=4095), "4095 is white in its 16-bit images, and 1000 in those of a"),
    ],
)
def test_what_cannot_be_joined(other: Weights, said: str) -> None:
    """One line says which encoder, and why."""
    with pytest.raises(BadInputError, match=said):
        plan_parts(["a", "b"], [weights(white_level=1000), other], [16, other.encoder.plan.image_size])


def test_the_wrong_number() -> None:
    """Of encoders, of sizes, and an encoder that is joined already."""
    one = weights()
    with pytest.raises(BadInputError, match="--weights names 1 encoder: expected 2 to 8"):
        plan_parts(["a"], [one], [16])
    with pytest.raises(BadInputError, match="--image-sizes has 1 size for 2 encoders"):
        plan_parts(["a", "b"], [one, one], [16])
    both = join_encoders([one, one], plan_parts(["a", "b"], [one, one], [16, 16]), 16)
    assert isinstance(both.encoder, Encoder)
    with pytest.raises(BadInputError, match="--weights b: is joined already"):
        plan_parts(["a", "b"], [one, both], [16, 16])


def test_kept_features_are_of_these_sizes() -> None:
    """The digest by which features are kept tells networks apart that resize images differently."""
    both = [weights(), weights(size=24)]
    made = [join_encoders(both, plan_parts(["a", "b"], both, sizes), 24).encoder for sizes in ([16, 24], [24, 24])]
    assert backbone_digest(made[0]) != backbone_digest(made[1])


def test_the_score_is_the_commands() -> None:
    """The judge counts as `moco knn` chooses its k."""
    first, _ = halves()
    right, asked = count_right(F.normalize(first), JUDGE.labels, temperature=0.1, classes=4)
    assert JUDGE.score(first) == pytest.approx(100 * max(right.values()) / asked)
