"""Measures views, features and queue of a run on a few of its own images and keys."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from moco.core.dictionary import Queue
from moco.core.encoder import Encoder
from moco.core.sizes import use_evaluation_mode
from moco.data.loader import ViewBatches
from moco.data.pairs import PairBatches
from moco.evaluation.alignment import EPOCH, alignment, effective_rank, uniformity
from moco.runtime.device import autocast
from moco.runtime.distributed import gather, rank, world_size
from moco.runtime.fields import Precision
from moco.runtime.randomness import Integers, Stream
from moco.shapes import Features, Inputs

IMAGES = 256
"""Images of which two views each are encoded: twice C, so that the rank of the 128 features can show."""
KEYS = 64
"""Newest and oldest keys, each, whose views are encoded once more: the mean cosine is then known to about 0.01."""
BETWEEN = 32
"""Keys of a third and of two thirds of the greatest age, each."""
BLANK = 4 / 255
"""A view is blank where no channel varies by more than this, in [0, 1]: noise of JPEG on one colour stays below."""
SPECKS = 100
"""One value in so many, at either end, may be of a hot pixel or dust: it makes no view bright or full."""
MOST_VALUES = 4096
"""Values of a channel that are sorted, about."""
DARK = 0.1
"""A view is dark where no value is above this; 12 bits stored in 16 end at 0.06."""
AT_A_TIME = 64
"""Views encoded at a time; 64 of 224 pixels take ResNet-50 half a GiB."""

Draw = Callable[[Integers], Inputs]
"""Rows of a sample -> the views that these have."""


def vitals(
    modules: Mapping[str, nn.Module],
    batches: ViewBatches | PairBatches,
    *,
    symmetric: bool = False,
    precision: Precision = "fp32",
) -> dict[str, float]:
    """Measure what `health.diagnose` needs of the encoder f_q, and of `dictionary` and f_k if that is a queue.

    Where key views have encoders of their own, these are g_q, and g_k and `g_dictionary`.
    Two views are drawn of each of 256 images. Of the first ones, where they are views
    of images: `blank_views` and `dark_views`, in percent. Of the
    head's vectors: `effective_rank`, `head_alignment`, `head_uniformity`. With a queue: `key_figures`.
    Costs at most 512 + 192 forward passes, which the ranks share: each must call it.
    Nothing of the run is changed.
    """
    f_q, f_k, queue = (modules.get(name) for name in ("f_q", "f_k", "dictionary"))
    g_q, g_k, queue = (modules.get(f"g_{name}", own) for name, own in (("q", f_q), ("k", f_k), ("dictionary", queue)))
    symmetric = symmetric and g_q is f_q  # else a queue has the keys of one direction
    assert isinstance(f_q, Encoder)
    assert isinstance(g_q, Encoder)
    images = np.linspace(0, len(batches.images) - 1, min(IMAGES, len(batches.images))).astype(np.int64)

    extremes = dict[Stream, list[Tensor]]()

    def views(stream: Stream, encoder: Encoder) -> Features:
        def draw(rows: Integers) -> Inputs:
            x = batches.make_views(images[rows], EPOCH, (stream,))[0]
            if batches.mean:
                extremes.setdefault(stream, []).append(_find_extremes(x))
            return x

        return _encode(encoder, draw, len(images), precision)

    z_1, z_2 = views(Stream.VIEW_QUERY, f_q), views(Stream.VIEW_KEY, g_q)
    figures = dict[str, float]()
    if batches.mean:
        seen = gather(torch.cat(extremes[Stream.VIEW_QUERY]).to(next(f_q.parameters()).device))[: len(images)].cpu()
        figures |= _share_of_empty(seen, batches)
    figures |= {
        "effective_rank": effective_rank(z_1),
        "head_alignment": alignment(z_1, z_2),
        "head_uniformity": uniformity(z_1),
    }
    if isinstance(queue, Queue) and isinstance(g_k, Encoder):
        figures |= key_figures(g_k, queue, batches, symmetric=symmetric, precision=precision)
    return {name: round(value, 4) for name, value in figures.items()}


def _find_extremes(x: Tensor) -> Tensor:
    """Find the lowest and the highest value (n, 2, C) of each channel of views (n, C, H, W), without specks."""
    values = x.flatten(2)
    values = values[..., :: 1 + values.shape[2] // MOST_VALUES].sort(2).values
    aside = values.shape[2] // SPECKS
    return torch.stack([values[..., aside], values[..., -1 - aside]], 1)


def _share_of_empty(seen: Tensor, batches: ViewBatches | PairBatches) -> dict[str, float]:
    """Say what percentage of views is blank or dark, by the extremes (n, 2, C) of each; no channel in full is dark."""
    if batches.images.form is None:
        seen = seen * torch.tensor(batches.std) + torch.tensor(batches.mean)  # in [0, 1]
    lowest, highest = seen.unbind(1)
    dark = highest.amax(1) < DARK if batches.images.form is None else torch.zeros(1)
    blank = (highest - lowest).amax(1) < BLANK
    return {"blank_views": 100 * float(blank.float().mean()), "dark_views": 100 * float(dark.float().mean())}


def key_figures(
    f_k: Encoder,
    queue: Queue,
    batches: ViewBatches | PairBatches,
    *,
    symmetric: bool = False,
    precision: Precision = "fp32",
) -> dict[str, float]:
    """Compare stored keys with their own views as f_k encodes them now, for the newest keys and the oldest.

    `new_keys_similarity` and `old_keys_similarity` are mean cosines; `new_keys_own` and `old_keys_own` are what is left
    of these after taking away the mean cosine with the other views of the same sample, which is what keys have in
    common whatever they are of. f_k encodes with its running statistics, where a key was made with those of its batch:
    so even the newest key is not at 1.

    Is the dictionary consistent (v1, 3.2)? `key_age_1` to `key_age_4` are the mean ages in steps of the newest keys, of
    two groups between and of the oldest, and `key_similarity_1` to `_4` their mean cosines.

    Nothing where there are fewer than two keys, or all are of one write.
    """
    age = queue.age().cpu().numpy()
    known = np.flatnonzero(age >= 0)
    if len(known) < 2 or age[known].min() == age[known].max():
        return {}
    by_age = known[np.argsort(age[known], kind="stable")]
    count = min(KEYS, len(known) // 2)
    between = [np.arange(BETWEEN) + (len(known) * third) // 3 - BETWEEN // 2 for third in (1, 2)]
    groups = [by_age[:count], *(by_age[np.clip(rows, 0, len(known) - 1)] for rows in between), by_age[-count:]]
    entries = np.concatenate(groups)
    index, written = queue.index.cpu().numpy()[entries], queue.written.cpu().numpy()[entries]
    writes = 1 + symmetric
    epoch, second = written // writes // batches.steps_per_epoch, written % writes == 1

    def views(rows: Integers) -> Inputs:
        """Return each key's own view: with a symmetric loss, the second write of a step is of the query views."""
        x_q, x_k = batches.make_views(index[rows], epoch[rows], (Stream.VIEW_QUERY, Stream.VIEW_KEY))
        if not symmetric:  # and x_q may be of another shape
            return x_k
        return torch.where(torch.from_numpy(second[rows]).to(x_q.device).view(-1, *[1] * (x_q.ndim - 1)), x_q, x_k)

    now, stored = _encode(f_k, views, len(entries), precision), queue.keys.cpu()[entries]
    figures, first = dict[str, float](), 0
    for number, group in enumerate(groups, 1):
        rows, first = slice(first, first + len(group)), first + len(group)
        similarity, own = likeness(stored[rows], now[rows])
        figures |= {f"key_age_{number}": age[group].mean() / writes, f"key_similarity_{number}": similarity}
        if number in (1, len(groups)):
            name = "new_keys" if number == 1 else "old_keys"
            figures |= {f"{name}_similarity": similarity, f"{name}_own": own}
    return figures


def likeness(stored: Features, now: Features) -> tuple[float, float]:
    """Mean cosine of each stored key (n, C) with its own row of `now`, and by how much it exceeds that with the others.

    With n = 1 there are no others, and both are the cosine.
    """
    cosine = stored @ now.T
    n = len(cosine)
    own = float(cosine.diagonal().mean())
    others = (float(cosine.mean()) * n - own) / (n - 1) if n > 1 else 0.0
    return own, own - others


@torch.no_grad()
def _encode(encoder: Encoder, draw: Draw, count: int, precision: Precision) -> Features:
    """The head's vectors of `count` views, on the CPU; each rank encodes its share and gets all."""
    device = next(encoder.parameters()).device
    share = -(-count // world_size())
    rows = np.resize(np.arange(count), share * world_size())[share * rank() :][:share]
    features: list[Tensor] = []
    with use_evaluation_mode(encoder):
        for start in range(0, share, AT_A_TIME):
            x = draw(rows[start : start + AT_A_TIME]).to(device)  # in fp32, so outside of autocast
            with autocast(precision, device.type):
                features.append(encoder.forward(x))  # not a call: that would be compiled anew for this size
    return gather(torch.cat(features))[:count].cpu()
