"""InfoNCE against the oracle, against F.cross_entropy, and at chance."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moco.core.dictionary import Keys
from moco.core.loss import info_nce, match_teacher
from tests import oracles


def units(*shape: int) -> Tensor:
    """Random vectors of unit length."""
    return F.normalize(torch.randn(*shape), dim=-1)


def random_case(n: int, c: int, k: int, s: int, masked: float) -> tuple[Tensor, Keys]:
    """Queries and keys; `masked` is the share of the shared keys that do not count."""
    mask = torch.rand(n, k) < masked if masked else None
    return units(n, c), Keys(units(n, c), units(k, c), units(n, s, c) if s else None, mask)


@settings(deadline=None, derandomize=True)
@given(
    n=st.integers(1, 5),
    c=st.integers(2, 6),
    k=st.integers(1, 9),
    s=st.integers(0, 3),
    masked=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.sampled_from([0.05, 0.07, 0.2, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_oracle(n: int, c: int, k: int, s: int, masked: float, temperature: float, seed: int) -> None:
    """Loss and accuracy are the oracle's: logits reach 20, so fp32 leaves a few 1e-6; masked rows may be empty."""
    torch.manual_seed(seed)
    q, keys = random_case(n, c, k, s, masked)
    expected_loss, expected_accuracy = oracles.info_nce(
        q.double().numpy(),
        keys.positive.double().numpy(),
        keys.negative.double().numpy(),
        temperature,
        None if keys.mask is None else keys.mask.numpy(),
        None if keys.extra is None else keys.extra.double().numpy(),
    )
    contrast = info_nce(q, keys, temperature)
    assert float(contrast.loss) == pytest.approx(expected_loss, abs=2e-5)
    assert float(contrast.accuracy) == pytest.approx(expected_accuracy, abs=1e-4)


@pytest.mark.parametrize("masked", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("s", [0, 3])
def test_gradient_equals_cross_entropy(s: int, masked: float) -> None:
    """It is the (K + 1)-way softmax whose class is the positive, in value and in every gradient (float32)."""
    torch.manual_seed(0)
    q, keys = random_case(4, 6, 9, s, masked)
    leaves = [x.requires_grad_() for x in (q, keys.positive, keys.negative, keys.extra) if x is not None]
    loss = info_nce(q, keys, 0.2).loss
    gradients = torch.autograd.grad(loss, leaves)

    shared = q @ keys.negative.T
    if keys.mask is not None:
        shared = shared.masked_fill(keys.mask, -torch.inf)
    own = torch.zeros(4, 0) if keys.extra is None else (keys.extra @ q[:, :, None])[:, :, 0]
    logits = torch.cat([(q * keys.positive).sum(1, keepdim=True), shared, own], dim=1) / 0.2
    reference = F.cross_entropy(logits, torch.zeros(4, dtype=torch.long))

    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-6)
    for gradient, expected in zip(gradients, torch.autograd.grad(reference, leaves), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 65536])
def test_chance_is_log_of_k_plus_1(k: int) -> None:
    """Where every key is as similar as every other, the loss is log(K + 1) and no query is right."""
    q = torch.eye(4)[:2]
    same = torch.eye(4)[3]
    contrast = info_nce(q, Keys(same.expand(2, 4), same.expand(k, 4)), 0.07)
    assert float(contrast.loss) == pytest.approx(math.log(k + 1), rel=1e-6)
    assert float(contrast.accuracy) == 0.0


def test_perfect_keys_are_found() -> None:
    """A query that equals its key among opposite ones has loss near 0 and accuracy 100."""
    q = torch.eye(3)
    contrast = info_nce(q, Keys(q, -torch.ones(5, 3) / math.sqrt(3)), 0.07)
    assert float(contrast.loss) < 1e-6
    assert float(contrast.accuracy) == 100.0


@pytest.mark.parametrize("bf16", [False, True], ids=["plain", "autocast"])
def test_bf16_features_are_compared_in_fp32(bf16: bool) -> None:
    """The logits are fp32 products, also where autocast is on: only the features' own rounding remains."""
    torch.manual_seed(0)
    q, keys = random_case(16, 8, 64, 3, 0.0)
    assert keys.extra is not None
    q = q.bfloat16()
    rounded = Keys(keys.positive.bfloat16(), keys.negative.bfloat16(), keys.extra.bfloat16())
    exact = info_nce(q.float(), Keys(*(x.float() for x in rounded if x is not None)), 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        contrast = info_nce(q, rounded, 0.07)
    assert contrast.loss.dtype == torch.float32
    torch.testing.assert_close(contrast.loss, exact.loss, rtol=1e-6, atol=0)


def seed_by_loops(q: Tensor, keys: Keys, temperature: float, teacher_temperature: float) -> float:
    """SEED's cross-entropy, one image and one key after the other (arXiv:2101.04731, Eq. 4 to 6)."""
    total = 0.0
    for row in range(len(q)):
        used = [keys.positive[row]]
        used += [k for i, k in enumerate(keys.negative) if keys.mask is None or not keys.mask[row, i]]
        used += [] if keys.extra is None else list(keys.extra[row])
        student = [math.exp(float(q[row] @ k) / temperature) for k in used]
        teacher = [math.exp(float(keys.positive[row] @ k) / teacher_temperature) for k in used]
        for s, p in zip(student, teacher, strict=True):
            total -= p / sum(teacher) * math.log(s / sum(student))
    return total / len(q)


@pytest.mark.parametrize("masked", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("s", [0, 3])
@pytest.mark.parametrize("teacher_temperature", [0.05, 0.2, 1.0])
def test_matching_a_teacher_equals_plain_loops(masked: float, s: int, teacher_temperature: float) -> None:
    """In float64, for masked and extra keys too; the accuracy is InfoNCE's."""
    torch.manual_seed(1)
    q, keys = random_case(5, 6, 9, s, masked)
    q, keys = q.double(), keys._replace(
        positive=keys.positive.double(), negative=keys.negative.double(),
        extra=None if keys.extra is None else keys.extra.double(),
    )  # fmt: skip
    q.requires_grad_()
    found = match_teacher(q, keys, 0.2, teacher_temperature)
    assert float(found.loss.detach()) == pytest.approx(
        seed_by_loops(q.detach(), keys, 0.2, teacher_temperature), abs=1e-12
    )
    assert found.accuracy == info_nce(q, keys, 0.2).accuracy
    (gradient,) = torch.autograd.grad(found.loss, q)
    assert gradient.isfinite().all()


def test_a_cold_teacher_is_info_nce() -> None:
    """The colder the teacher, the more of its weight lies on the image's own key; at 0 it is InfoNCE, bit for bit."""
    torch.manual_seed(2)
    q, keys = random_case(6, 8, 20, 0, 0.0)
    expected = float(info_nce(q, keys, 0.2).loss)
    assert float(match_teacher(q, keys, 0.2, 0.0).loss) == expected
    assert float(match_teacher(q, keys, 0.2, 0.001).loss) == pytest.approx(expected, abs=1e-5)


def test_a_student_that_equals_its_teacher_has_no_gradient() -> None:
    """At equal temperatures q = k is the minimum: what is left is the entropy of p."""
    torch.manual_seed(3)
    _, keys = random_case(4, 5, 12, 0, 0.0)
    q = keys.positive.clone().requires_grad_()
    angle = torch.autograd.grad(match_teacher(F.normalize(q), keys, 0.3, 0.3).loss, q)[0]
    assert angle.abs().max() < 1e-6
