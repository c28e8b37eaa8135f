"""The transformer over bytes: against torch's own, and what padding and spans must not change."""

import pytest
import torch
from torch import Tensor, nn

from moco.core import bytes as module
from moco.core.bytes import LONGEST_SPAN, PADDING, STRIDE, Block, ByteTransformer, ByteTransformerPlan, positions
from moco.core.encoder import Encoder, EncoderPlan
from moco.errors import BadInputError

TINY = ByteTransformerPlan(width=16, depth=2, heads=2)


def network() -> ByteTransformer:
    """A tiny one with random weights."""
    torch.manual_seed(0)
    return ByteTransformer(TINY).eval()


def spans(*lengths: int, to: int) -> Tensor:
    """Random bytes of these lengths, padded."""
    drawn = torch.Generator().manual_seed(1)
    x = torch.full((len(lengths), to), PADDING, dtype=torch.uint8)
    for row, length in enumerate(lengths):
        x[row, :length] = torch.randint(1, 256, (length,), generator=drawn, dtype=torch.uint8)
    return x


def test_many_long_documents_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their spans are encoded in parts, with the same result."""
    net, x = network(), torch.stack([spans(*[40] * 3, *[0] * row, to=40)[:3] for row in range(5)])
    x[1, 2], x[4, 1:] = PADDING, PADDING
    expected, seen = net(x), list[int]()
    own = net._encode
    monkeypatch.setattr(module, "AT_ONCE", 100)

    def encode(part: Tensor) -> Tensor:
        seen.append(part.numel())
        return own(part)

    monkeypatch.setattr(net, "_encode", encode)
    assert torch.allclose(net(x), expected, atol=1e-6)
    assert max(seen) <= 100
    assert sum(seen) == 12 * 40


def test_spans_that_take_minutes_are_refused() -> None:
    """The time grows with the square of their length."""
    encoder = Encoder(EncoderPlan("bytes-tiny", image_size=256))
    encoder.require_size(LONGEST_SPAN, "--image-size")
    with pytest.raises(BadInputError, match=f"--image-size 16384: bytes-tiny takes spans of at most {LONGEST_SPAN}"):
        encoder.require_size(16384, "--image-size")


def test_a_block_equals_torchs_own() -> None:
    """With the same weights, and a mask."""
    torch.manual_seed(0)
    ours = Block(16, 2)
    theirs = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    pairs = {
        "self_attn.in_proj_weight": ours.qkv.weight, "self_attn.in_proj_bias": ours.qkv.bias,
        "self_attn.out_proj.weight": ours.out.weight, "self_attn.out_proj.bias": ours.out.bias,
        "linear1.weight": ours.up.weight, "linear1.bias": ours.up.bias, "linear2.weight": ours.down.weight,
        "linear2.bias": ours.down.bias, "norm1.weight": ours.norm_1.weight, "norm1.bias": ours.norm_1.bias,
        "norm2.weight": ours.norm_2.weight, "norm2.bias": ours.norm_2.bias,
    }  # fmt: skip
    theirs.load_state_dict(pairs)
    x, seen = torch.randn(3, 5, 16), torch.arange(5) < torch.tensor([[5], [3], [1]])
    expected = theirs.train()(x, src_key_padding_mask=~seen)
    assert torch.allclose(ours(x, seen[:, None, None])[seen], expected[seen], atol=1e-5)


def test_features_do_not_depend_on_how_far_a_batch_is_padded() -> None:
    """Nor on what else is in the batch."""
    net, x = network(), spans(7, 20, 33, to=33)
    whole = net(x)
    assert torch.allclose(net(nn.functional.pad(x, (0, 30))), whole, atol=1e-5)
    for row, length in enumerate((7, 20, 33)):
        assert torch.allclose(net(x[row : row + 1, :length])[0], whole[row], atol=1e-5)


def test_a_document_of_several_spans_has_their_mean() -> None:
    """Spans that are empty do not count; a document of nothing else still has finite features."""
    net, x = network(), spans(12, 9, to=12)
    alone = net(x)
    documents = torch.zeros(3, 4, 12, dtype=torch.uint8)
    documents[0, :2], documents[1, 0] = x, x[1]
    found = net(documents)
    assert torch.allclose(found[0], alone.mean(0), atol=1e-5)
    assert torch.allclose(found[1], alone[1], atol=1e-5)
    assert bool(found[2].isfinite().all())


def test_the_order_of_bytes_counts() -> None:
    """Positions are sines and cosines, by their formula."""
    net, x = network(), spans(40, to=40)
    assert not torch.allclose(net(x), net(x.flip(1)), atol=1e-3)
    table = positions(6, 8)
    for place in range(6):
        for pair in range(4):
            angle = torch.tensor(place / 10000 ** (2 * pair / 8))
            assert torch.allclose(table[place, 2 * pair : 2 * pair + 2], torch.stack([angle.sin(), angle.cos()]))


@pytest.mark.parametrize("length", [1, STRIDE - 1, STRIDE, STRIDE + 1])
def test_the_shortest_spans(length: int) -> None:
    """One byte is enough."""
    assert network()(spans(length, to=length)).shape == (1, 16)


def test_the_encoder_of_the_name() -> None:
    """It takes bytes, has no batch normalisation, and takes spans of any length."""
    encoder = Encoder(EncoderPlan("bytes-tiny", head="mlp", feature_dim=8, image_size=32))
    assert encoder.set_bn_group_size(2) == 0
    encoder.require_size(32, "--image-size")
    q = encoder(spans(32, 5, to=32))
    assert q.shape == (2, 8)
    assert torch.allclose(q.norm(dim=1), torch.ones(2))
