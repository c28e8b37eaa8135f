"""The bag of n-grams: against counting by a dictionary, and what padding, spans and places must not change."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from moco.core.bytes import PADDING
from moco.core.encoder import Encoder, EncoderPlan
from moco.core.ngrams import BUCKETS, LENGTHS, PACE, NgramBag, count_ngrams, directions

CPU = torch.device("cpu")
SIGNS = [1, 1, -1, 1, -1, 1, -1, 1, 1, 1, 1, -1, 1, -1, -1, -1]
"""The first random signs: encoders that are stored do without them."""


def spans(*texts: bytes) -> Tensor:
    """Texts as rows of bytes, padded."""
    x = torch.full((len(texts), max(map(len, texts))), PADDING, dtype=torch.uint8)
    for row, text in zip(x, texts, strict=True):
        row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return x


def grams(text: bytes) -> Counter[bytes]:
    """The n-grams of a text, by slicing."""
    return Counter(text[at : at + n] for n in LENGTHS for at in range(len(text) - n + 1))


def bucket(gram: bytes) -> int:
    """The bucket of one n-gram: the only one that is not empty when the text is this n-gram and no other is counted."""
    alone, shorter = count_ngrams(spans(gram))[0], Counter(grams(gram))
    del shorter[gram]
    for other in shorter:
        alone[bucket(other)] -= shorter[other]
    (found,) = alone.nonzero().flatten().tolist()
    return int(found)


def test_counts_are_those_of_a_dictionary() -> None:
    """Whatever the n-grams' places, neighbours and the padding behind them."""
    texts = [b"the cat sat on the mat", b"aaaaaaaa", bytes(range(200, 230)), b"cat"]
    counts = count_ngrams(spans(*texts))
    for text, row in zip(texts, counts, strict=True):
        expected = torch.zeros(BUCKETS)
        for gram, count in grams(text).items():
            expected[bucket(gram)] += count
        assert torch.equal(row, expected)


def test_features_are_the_formula() -> None:
    """Summed by a loop over the n-grams, with weights that are not all the same."""
    net, text = NgramBag(64), b"one fine day, one fine night"
    with torch.no_grad():
        net.log_weight.copy_(torch.randn(BUCKETS, generator=torch.Generator().manual_seed(0)) / PACE)
    total = torch.zeros(64)
    for gram, count in grams(text).items():  # no two of them share a bucket
        place = bucket(gram)
        total += math.exp(PACE * float(net.log_weight.detach()[place])) * math.log1p(count) * directions(64, CPU)[place]
    assert torch.allclose(net(spans(text))[0], F.layer_norm(total, (64,)), atol=1e-4)


def test_few_ngrams_share_a_bucket() -> None:
    """No more than balls that are thrown at random do."""
    texts = [b"%05d" % number for number in range(0, 99_999, 70)]
    used = int((count_ngrams(spans(*texts)).sum(0) > 0).sum())
    expected = BUCKETS * (1 - (1 - 1 / BUCKETS) ** len(set().union(*map(grams, texts))))
    assert used == pytest.approx(expected, rel=0.02)


def test_directions_are_signs_without_a_bias_and_at_right_angles() -> None:
    """Cosines of random signs have deviation 1 / sqrt(width); another process draws the same."""
    signs = directions(512, CPU)
    assert bool((signs.abs() == 1).all())
    assert abs(float(signs.mean())) < 0.002
    cosine = signs[:200] @ signs[:200].T / 512
    assert float(cosine[~torch.eye(200, dtype=torch.bool)].std()) == pytest.approx(512**-0.5, rel=0.1)
    assert signs[0, :16].tolist() == SIGNS


def test_features_do_not_depend_on_how_far_a_batch_is_padded() -> None:
    """Nor on what else is in the batch."""
    net, texts = NgramBag(32), [b"short", b"a much longer text", b"x"]
    whole = net(spans(*texts))
    assert torch.allclose(net(F.pad(spans(*texts), (0, 30))), whole, atol=1e-5)
    for row, text in enumerate(texts):
        assert torch.allclose(net(spans(text))[0], whole[row], atol=1e-5)
    assert not net(torch.zeros(1, 9, dtype=torch.uint8)).any()  # nothing but padding


@pytest.mark.parametrize("text", [b"x", b"xy", b"xyz"])
def test_the_shortest_texts_are_told_apart(text: bytes) -> None:
    """One byte is enough."""
    one, other = NgramBag(32)(spans(text, bytes([text[0] + 1]) + text[1:])).detach()
    assert float(F.cosine_similarity(one, other, dim=0)) < 0.9


def test_a_document_of_several_spans_has_their_counts() -> None:
    """Their order and empty ones do not matter."""
    net = NgramBag(32)
    documents = torch.zeros(2, 3, 12, dtype=torch.uint8)
    documents[0, :2] = spans(b"hello world.", b"so long")
    documents[1, 0], documents[1, 2] = documents[0, 1], documents[0, 0]
    counts = count_ngrams(documents[0, :2]).sum(0)
    expected = F.layer_norm(counts.log1p() @ directions(32, CPU), (32,))
    assert torch.allclose(net(documents), expected.expand(2, 32), atol=1e-5)


def test_the_encoder_of_the_name_learns_which_ngrams_tell() -> None:
    """A word that two spans of one document share gains weight; one that all documents have loses it."""
    torch.manual_seed(0)
    bag = NgramBag(32)
    encoder = Encoder(EncoderPlan("bytes-ngrams", head="linear", feature_dim=32, image_size=16), (bag, 32))
    assert encoder.set_bn_group_size(2) == 0
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.03)
    words = [bytes([97 + n]) * 4 for n in range(8)]
    x_q, x_k = spans(*(b"that " + word for word in words)), spans(*(word + b" that" for word in words))
    for _ in range(6):
        loss = F.cross_entropy(encoder(x_q) @ encoder(x_k).T / 0.1, torch.arange(8))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weight = bag.log_weight.detach()
    assert float(weight[bucket(b"that")]) < 0 < float(weight[bucket(b"cccc")])
