"""A small transformer over bytes: documents -> features, by the names of `TRANSFORMERS`."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.shapes import Documents, Features, Tokens

PADDING = 0
"""The byte that fills a span up to the length of its batch; it is in no text."""
STRIDE = 4
"""Bytes that become one token."""
LONGEST_SPAN = 4096
"""Bytes of a span; the time that attention takes grows with their square."""
AT_ONCE = 1 << 19
"""Bytes of spans that documents of several spans are encoded by at once: they take about half a GiB."""
BYTE_WIDTH = 32
"""Numbers that stand for one byte."""


@dataclass(frozen=True)
class ByteTransformerPlan:
    """The size of a transformer: `depth` blocks of `width` numbers a token, with `heads` heads of attention each."""

    width: int
    depth: int
    heads: int


TRANSFORMERS = {
    "bytes-tiny": ByteTransformerPlan(width=128, depth=4, heads=4),
    "bytes-small": ByteTransformerPlan(width=256, depth=6, heads=8),
}
"""The networks by name."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (pre-norm: Xiong et al., arXiv:2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tokens, mask: Tensor) -> Tokens:
        """Transform the tokens x (N, T, width); mask (N, 1, 1, T) is False where one is padding."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(n, t, width))
        y: Tokens = x + self.down(F.gelu(self.up(self.norm_2(x))))
        return y


class ByteTransformer(nn.Module):
    """Bytes (N, L) -> features (N, width): every `STRIDE` bytes become a token, and the tokens' mean is the feature.

    Byte 0 is padding: no other token sees it, and the mean leaves it out, so that features do not depend on how far a
    batch is padded. Positions are sinusoidal (arXiv:1706.03762, 3.5), so a span may have any length. A document may
    also come as S spans, (N, S, L): its feature is then the mean of those that are not empty.
    """

    def __init__(self, plan: ByteTransformerPlan) -> None:
        super().__init__()
        self.num_features = plan.width
        self.embedding = nn.Embedding(256, BYTE_WIDTH, padding_idx=PADDING)
        self.stem = nn.Conv1d(BYTE_WIDTH, plan.width, 2 * STRIDE - 1, stride=STRIDE, padding=STRIDE - 1)
        self.blocks = nn.ModuleList(Block(plan.width, plan.heads) for _ in range(plan.depth))
        self.norm = nn.LayerNorm(plan.width)

    def forward(self, x: Documents) -> Features:
        """Encode bytes x: spans (N, L), or documents of several spans (N, S, L)."""
        if x.ndim == 2:
            return self._encode(x)
        filled = (x != PADDING).any(2)  # (N, spans)
        filled[:, 0] = True
        spans = x[filled]
        parts = [spans] if spans.numel() <= AT_ONCE else torch.split(spans, max(1, AT_ONCE // spans.shape[1]))
        h = torch.cat([self._encode(part) for part in parts])
        total = h.new_zeros(len(x), self.num_features).index_add_(0, filled.nonzero()[:, 0], h)
        return total / filled.sum(1, keepdim=True)

    def _encode(self, x: Documents) -> Features:
        x = F.pad(x, (0, -x.shape[1] % STRIDE))
        mask = (x != PADDING).view(len(x), -1, STRIDE).any(2)  # (N, T)
        mask[:, 0] = True  # or an empty span would have no token to see
        h = F.gelu(self.stem(self.embedding(x.int()).transpose(1, 2))).transpose(1, 2)  # (N, T, width)
        h = h + positions(h.shape[1], h.shape[2], h.device).to(h)
        for block in self.blocks:
            h = block(h, mask[:, None, None])
        weight = mask[..., None].to(h)
        y: Features = (self.norm(h) * weight).sum(1) / weight.sum(1)
        return y


def positions(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return sines and cosines (count, width) of positions 0..count-1, wavelengths 2 pi to 10,000 x 2 pi."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angle = torch.arange(count, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
