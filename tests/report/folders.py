"""Run folders written by hand, and a page taken apart by the standard library's parser."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import RECIPES
from moco.runtime.configfile import to_json

VOID = {"meta", "img", "br", "link", "input"}
CHANCE = math.log(128)


def webp(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (8, 8)) -> str:
    """A picture of one colour."""
    out = io.BytesIO()
    PillowImage.new("RGB", size, colour).save(out, "WEBP")
    return base64.b64encode(out.getvalue()).decode()


def metrics(steps: int = 100, every: int = 20, knn: Sequence[float] = (20.0, 31.5, 47.25)) -> list[dict[str, Any]]:
    """Lines of a run whose loss falls from chance, with looks of the monitor spread over it."""
    lines: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        lines.append({
            "step": step, "epoch": step * 128 / 50000, "loss": CHANCE * (1 - 0.5 * step / steps), "chance_loss": CHANCE,
            "contrast_accuracy": 60.0, "lr": 0.06, "gradient_norm": 1.5, "images_per_second": 700.0 + step,
            "time": step / 2,
        })  # fmt: skip
    for number, value in enumerate(knn):
        step = round(number * steps / max(1, len(knn) - 1))
        lines.append({"step": step, "knn_top1": value, "knn_top5": 90.0, "time": step / 2})
    return sorted(lines, key=lambda line: line["step"])


def write_run(
    folder: Path,
    *,
    lines: Sequence[Mapping[str, Any]] | None = None,
    status: Mapping[str, Any] | None = None,
    evaluations: Mapping[str, Any] | None = None,
    recipe: str = "quick",
    **config: Any,
) -> Path:
    """A run folder as the loop leaves it behind, without weights."""
    folder.mkdir(parents=True)
    values = {"data": "cifar10", "out": folder, "max_steps": 100, "lr": 0.06, "device": "cpu", "threads": 2, **config}
    (folder / "config.json").write_text(to_json(PretrainConfig(**{**RECIPES[recipe].values, **values})))
    content = {"state": "done", "step": 100, "result": {"seconds": 50.0}} if status is None else status
    (folder / "status.json").write_text(json.dumps(content))
    written = metrics() if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    for name, content in (evaluations or {}).items():
        (folder / "evaluations").mkdir(exist_ok=True)
        (folder / "evaluations" / f"{name}.json").write_text(json.dumps(content))
    return folder


def gallery(names: Sequence[str], classes: Sequence[str] | None, count: int = 12) -> dict[str, Any]:
    """What `moco.explore.gallery` stores, with made-up content; names and classes come in turn."""

    def image(i: int) -> dict[str, Any]:
        label = None if classes is None else i % len(classes)
        return {"name": names[i % len(names)], "class": label, "image": webp((i % 256, 99, 99))}

    columns = max(4, round(count**0.5))
    labels = None if classes is None else [i % len(classes) for i in range(count)]
    found = [{**image(i), "similarity": round(0.9 - i / 100, 3)} for i in range(3)]
    content: dict[str, Any] = {
        "version": 1, "data": "cifar10", "splits": {"train": 50000, "test": count}, "bank": 40, "queries": count,
        "classes": None if classes is None else list(classes), "feature_width": 128, "effective_rank": 20.5,
        "views": {
            "size": 16, "augment": "v2", "titles": [{"epoch": 1, "view": "query"}, {"epoch": 1, "view": "key"}],
            "rows": [{**image(i), "views": [webp(), webp()]} for i in range(2)],
        },
        "filters": {"layer": "conv1", "count": 2, "side": 3, "images": [webp(), webp()]},
        "neighbours": [{**image(i), "found": found} for i in range(2)],
        "map": {
            "method": "t-SNE, 750 steps", "tile": 8, "columns": columns,
            "sprite": webp(size=(8 * columns, 8 * -(-count // columns))),
            "x": [(i * 37) % 1001 for i in range(count)], "y": [(i * 91) % 1001 for i in range(count)],
            "names": [names[i % len(names)] for i in range(count)], "classes": labels, "predicted": labels,
        },
    }  # fmt: skip
    if classes is not None:
        n = len(classes)
        content["confusion"] = [[3 if i == j else int(j == 0) for j in range(n)] for i in range(n)]
    return content


class Parsed(HTMLParser):
    """Elements with their attributes and texts; `trouble` says where tags do not match."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.style, self.trouble, self._open = "", list[str](), list[str]()
        self.feed(page)
        self.close()
        self.trouble += [f"{tag} is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element; look for attributes that come twice."""
        if len(dict(attrs)) != len(attrs):
            self.trouble.append(f"{tag}: an attribute comes twice")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of SVG that closes itself."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Tags close in the reverse order."""
        if not self._open or self._open[-1] != tag:
            self.trouble.append(f"</{tag}> inside {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        """Keep texts with the element that they lie in."""
        inside = self._open[-1] if self._open else ""
        self.texts.append((inside, data))
        if inside == "style":
            self.style += data
        if inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        for place in reversed(self._open):
            if place in ("td", "th"):
                self.tables[-1][-1][-1] += data
                break
            if place == "table":
                break

    def handle_comment(self, data: str) -> None:
        """There are none."""
        self.trouble.append(f"a comment: {data[:40]}")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        """What a person can read."""
        return " ".join(data for inside, data in self.texts if inside not in ("script", "style"))

    def rows(self) -> list[list[str]]:
        """The rows of all tables."""
        return [row for table in self.tables for row in table]
