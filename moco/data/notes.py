"""What the user reads about a set: how many files are left out and why, and what is doubtful."""

import sys
from collections import Counter
from dataclasses import dataclass, field

from moco.errors import one_line
from moco.runtime import distributed

DATA = "--data"
"""The flag that gives a set, unless another one does."""
MOST_REASONS = 8
"""A line names the most frequent reasons; the others are counted together."""
MOST_REMARKS = 8
"""Remarks of one kind that are printed."""

_printed = set[str]()


@dataclass
class Notes:
    """What is found while a set of images is opened; printed once it is open."""

    skipped: Counter[str] = field(default_factory=Counter)
    """A reason, such as `hidden file(s)` -> how many files or folders are left out for it."""
    first: dict[str, str] = field(default_factory=dict)
    """A reason -> the first of them, where that helps to find it."""
    remarks: list[str] = field(default_factory=list)
    """How folders are understood, where that is not certain."""

    def skip(self, reason: str, name: str = "", count: int = 1) -> None:
        """Count what is left out."""
        self.skipped[reason] += count
        if name:
            self.first.setdefault(reason, name)

    def remark(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def add(self, other: "Notes") -> None:
        """Take over what another part of the set found."""
        self.skipped.update(other.skipped)
        self.first = {**other.first, **self.first}
        for text in other.remarks:
            self.remark(text)

    @property
    def left_out(self) -> str:
        """Describe what is left out; empty if nothing is."""
        ranked = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        shown = [
            f"{count} {reason.replace('(s)', '' if count == 1 else 's')}"
            + (f" ({self.first[reason]})" if reason in self.first else "")
            for reason, count in ranked[:MOST_REASONS]
        ]
        rest = sum(count for _, count in ranked[MOST_REASONS:])
        return ", ".join(shown + ([f"{rest} others"] if rest else []))

    def to_facts(self) -> dict[str, object]:
        """Return the notes as JSON holds them."""
        return {"skipped": dict(self.skipped), "first": self.first, "remarks": self.remarks}

    @classmethod
    def from_facts(cls, facts: object) -> "Notes":
        """Read what `to_facts` gave; whatever has another form is left out."""
        notes = cls()
        if isinstance(facts, dict):
            skipped, first, remarks = (facts.get(name) for name in ("skipped", "first", "remarks"))
            if isinstance(skipped, dict):
                notes.skipped.update({str(reason): n for reason, n in skipped.items() if type(n) is int and n > 0})
            if isinstance(first, dict):
                notes.first = {str(reason): str(name) for reason, name in first.items()}
            if isinstance(remarks, list):
                notes.remarks = [str(text) for text in remarks]
        return notes

    def print(self, data: str, counts: dict[str, int], flag: str = DATA, kind: str = "image") -> None:
        """Print the remarks, a line each, and one line of what is left out of the set that `flag` names; each once."""
        found = ", ".join(f"{count} {split}" for split, count in counts.items())
        lines = self.remarks[:MOST_REMARKS]
        if len(self.remarks) > MOST_REMARKS:
            lines = [*lines, f"and {len(self.remarks) - MOST_REMARKS} more remarks of this kind"]
        if self.skipped:
            lines = [*lines, f"{found} {kind}{'' if list(counts.values()) == [1] else 's'}; left out: {self.left_out}"]
        for line in lines:
            text = one_line(f"{flag} {data}: {line}")
            if text not in _printed and distributed.rank() == 0:
                _printed.add(text)
                print(text, file=sys.stderr, flush=True)
