"""What a case left behind, as names and values that must be the same, and where two sides differ."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize

from benchmarks.same.cases import GIVEN

Part = dict[str, str]
"""The name of each tensor or number -> its value; a tensor's is its type, shape and SHA-256."""
MEASURED = re.compile(r"^time$|second|memory|^waiting_for_data$")
"""Keys of figures that differ from run to run."""
UNKNOWN = re.compile(
    r"moco: error: .*(Unrecognized options|invalid choice|: expected one of|is not a (command|recipe|task|flag))"
)
"""What a command line says to a word that it does not know."""
GOOD = ("same", "not there before")


@dataclass(frozen=True)
class Outcome:
    """How a case ended on one side: what it left, or why it failed."""

    parts: dict[str, Part] = field(default_factory=dict)
    error: str = ""

    @property
    def unknown(self) -> bool:
        """Whether the command line did not know a word of it."""
        return bool(UNKNOWN.search(self.error))


def gather(folder: Path, said: str) -> dict[str, Part]:
    """The evidence in a case's folder and in what the command said: its last line, if that is a JSON object."""

    def left(pattern: str) -> list[Path]:
        return [path for path in sorted(folder.rglob(pattern)) if path.relative_to(folder).parts[0] != GIVEN]

    encoders, checkpoints = left("encoder.safetensors"), left("checkpoints/*.safetensors")
    figures: Part = {}
    for path in left("metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for number, line in enumerate((line for line in lines if "event" not in line), 1):
            figures |= numbers(line, f"metrics line {number}")
    for path in sorted(folder.rglob("evaluations/*.json")):  # also those in the run that was given
        figures |= numbers(json.loads(path.read_text(encoding="utf-8")), path.name)
    for path in left("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            figures |= {f"{path.name} {name}": fingerprint(arrays[name]) for name in sorted(arrays)}
    last = (said.strip().splitlines() or [""])[-1]
    if last.startswith("{"):
        figures |= numbers(json.loads(last), "result")
    return {
        "encoder": tensors(encoders[0]) if encoders else {},
        "checkpoint": {"file": checkpoints[-1].name} | tensors(checkpoints[-1]) if checkpoints else {},
        "figures": figures,
    }


def tensors(path: Path) -> Part:
    """The tensors of a safetensors file; its metadata hold seconds and do not count."""
    content: list[tuple[str, dict[str, Any]]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    return {
        name: f"{tensor['dtype']} {tensor['shape']} {hashlib.sha256(tensor['data']).hexdigest()}"
        for name, tensor in sorted(content, key=lambda pair: pair[0])
    }


def fingerprint(array: np.ndarray[Any, Any]) -> str:
    """Type, shape and SHA-256 of an array."""
    return f"{array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"


def numbers(value: Any, name: str) -> Part:
    """Every number in JSON, by the keys that lead to it, without what is measured; words may change."""

    def walk(value: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if not MEASURED.search(key):
                    yield from walk(inner, f"{name} {key}")
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from walk(inner, f"{name} {number}")
        elif not isinstance(value, str):
            yield name, repr(value)

    return dict(walk(value, name))


def digest(part: Part) -> str:
    """The beginning of the SHA-256 over a part, `-` for an empty one."""
    whole = hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
    return whole[:12] if part else "-"


def first_difference(before: Outcome, now: Outcome) -> str:
    """Name the first tensor or number that differs, with both values; nothing where all are the same.

    A figure of a new name, beside others that were there before, is no difference.
    """
    for part, values in before.parts.items():
        others = now.parts.get(part, {})
        added = [name for name in others if name not in values and not (part == "figures" and is_new_key(name, values))]
        for name in (*values, *added):
            old, new = values.get(name, "missing"), others.get(name, "missing")
            if old != new:
                return f"{part}: {name}: {old} before, {new} now"
    return ""


def is_new_key(name: str, figures: Part) -> bool:
    """Whether a figure is one more key of a record, and neither one more record nor one more entry of a list."""
    record, _, key = name.rpartition(" ")
    return not key.isdigit() and any(other.startswith(f"{record} ") for other in figures)


def verdict(before: Outcome, now: Outcome) -> tuple[str, str]:
    """A word on a case, and where it is not `same` the reason."""
    if before.unknown and not now.error:
        return "not there before", before.error
    if now.unknown and not before.error:
        return "not there now", now.error
    errors = [f"{name}: {side.error}" for name, side in (("before", before), ("now", now)) if side.error]
    if errors:
        return "failed", "; ".join(errors)
    difference = first_difference(before, now)
    return ("differs", difference) if difference else ("same", "")
