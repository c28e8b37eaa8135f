"""The content of a checkpoint: its tensors under their full names, and which encoder to use."""

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeGuard

import torch
from torch import Tensor, nn

from moco.errors import BadInputError, one_line

DEPTH = 8
"""Containers within one another, among which tensors are looked for."""
MOST_ENTRIES = 1_000_000
"""Entries of all containers; those that hold one another several times have entries without end."""
MARKS = ("num_batches_tracked", "total_ops", "total_params")
"""What modules are given to count with (the last two by thop): of no effect on features."""
LATER = re.compile(r"(?:^|_)(?:ema|teacher)(?:_|$)")
"""In the name of a part: the mean over the training's steps, which its project evaluates (DINO, timm, torchvision)."""
BESIDE = re.compile(r"(?:^|_)(?:momentum|target|key|k|m|student)(?:_|$)|^ema_state_dict$")
"""In the name of a part: a copy beside the encoder that its project evaluates. In `ema_state_dict` mmengine keeps the
weights that are no mean."""
CONTAINERS = ("state_dict_ema.", "model_ema.", "state_dict.", "model_state_dict.")
WRAPPERS = ("model.", "module.", "base_model.")
"""Before every name, also of a network whose tensors had other names once."""
INSERTED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch puts into the names of a network or of some of its modules that are compiled, cut over processes, or
computed again in the backward pass."""
SHOWN = 3
"""Names that a message gives of each kind."""


def flatten(content: object, where: str) -> dict[str, Tensor]:
    """Return the tensors of all containers, each under the names of its containers and its own, joined by dots.

    What torch's wrappers put into names is left out. Raises BadInputError where there are none.
    """
    looked_at = itertools.count(1)
    tensors = dict(_walk(content, "", DEPTH, lambda: next(looked_at) > MOST_ENTRIES))
    if next(looked_at) > MOST_ENTRIES:
        raise BadInputError(f"{where}: has more than {MOST_ENTRIES} entries, so it is not a checkpoint of a network")
    if not tensors:
        raise BadInputError(f"{where}: holds no tensors by name, expected a checkpoint with a state_dict")
    plain = {INSERTED.sub("", name): value for name, value in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors  # with and without a wrapper, they are not the same


def _walk(node: object, prefix: str, depth: int, is_enough: Callable[[], bool]) -> Iterator[tuple[str, Tensor]]:
    for name, value in dict.items(node) if isinstance(node, dict) else ():
        if is_enough():
            return
        if not isinstance(name, str):
            continue
        if is_plain(value):
            yield prefix + name, value.detach()
        elif depth:
            yield from _walk(value, f"{prefix}{name}.", depth - 1, is_enough)


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Return whether it is a tensor of real numbers, each of them in the file."""
    if type(value) not in (Tensor, nn.Parameter) or not isinstance(value, Tensor):
        return False
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def choose_encoder(prefixes: Collection[str], tensors: Mapping[str, Tensor], where: str) -> tuple[str, list[str]]:
    """Choose the encoder that a project evaluates among those whose names begin so, and name the others.

    f_q before f_k, a mean over the training's steps before the last of them. Raises BadInputError where several are as
    good and not the same.
    """
    ranked = sorted(prefixes, key=_rank)
    best = [prefix for prefix in ranked if _rank(prefix) == _rank(ranked[0])]
    different = [prefix for prefix in best[1:] if not _same(best[0], prefix, tensors)]
    if different:
        names = ", ".join(f"part={prefix.rstrip('.') or '.'}@{where}" for prefix in (best[0], *different)[:SHOWN])
        raise BadInputError(
            f"{where}: holds {1 + len(different)} encoders, and does not say which is meant: give one, as in {names}"
        )
    return best[0], [prefix for prefix in ranked if prefix not in best]


def _rank(prefix: str) -> int:
    parts = prefix.split(".")
    later = sum(1 for part in parts if LATER.search(part) and not BESIDE.search(part))
    return sum(1 for part in parts if BESIDE.search(part)) - later


def _same(first: str, second: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether what both have is equal: the same module under two names."""
    one, other = below(first, tensors), below(second, tensors)
    return all(torch.equal(one[name], other[name]) for name in one.keys() & other.keys())


def find_named(expected: Collection[str], tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Find the tensors of the encoder that has most of the expected names, without what stands before them; or all."""
    first = [name for name in expected if not name.endswith(MARKS)][:SHOWN]
    prefixes = {name.removesuffix(end) for end in first for name in tensors if name.endswith(end)}
    prefixes = {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}
    counts = {prefix: sum(prefix + name in tensors for name in expected) for prefix in prefixes}
    most = max(counts.values(), default=0)
    fullest = [prefix for prefix, count in counts.items() if count == most > len(expected) / 2]
    if fullest:
        return below(choose_encoder(fullest, tensors, where)[0], tensors)
    for prefix in (*CONTAINERS, *WRAPPERS, *WRAPPERS):
        inner = below(prefix, tensors)
        if len(inner) == len(tensors) or (inner and prefix in CONTAINERS):
            tensors = inner
    return dict(tensors)


def first_names(names: Collection[str]) -> str:
    """Return the first few names, on one line."""
    return ", ".join(map(one_line, list(names)[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
