"""Shared start and end of the curation commands: readable images, facts and features; tables, lists and a page."""

import base64
import csv
import dataclasses
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moco.commands.comparison import called
from moco.commands.embed import label_splits
from moco.curation.config import CurationConfig
from moco.curation.facts import Facts, blank_facts, measure_image
from moco.curation.neighbours import Index, build_index, needs_index, pack_index, unpack_index
from moco.curation.page import curation_page
from moco.data.ahead import load_ahead
from moco.data.derived import Joined, Subset
from moco.data.fingerprint import digest_files
from moco.data.forms import describe_digest
from moco.data.images import Images, see
from moco.data.loader import choose_workers
from moco.data.replacement import list_names
from moco.errors import BadInputError, counted, one_line
from moco.evaluation.config import RANDOM, EmbedConfig
from moco.evaluation.features import Encoding
from moco.evaluation.once import IMAGES_IN_A_PART, Kept, Parts, compute_in_parts, compute_once, encode_once
from moco.evaluation.session import Subject, all_splits, at_random, say, session
from moco.explore.gallery import thumbnail
from moco.runtime import distributed
from moco.runtime.checkpoint import digest
from moco.runtime.fields import check
from moco.runtime.files import expand_home, replace_file, takes_files
from moco.runtime.phases import say_if_slow
from moco.runtime.progress import show_progress
from moco.shapes import Features

THUMBNAIL_SIDE, QUALITY = 96, 80
MEASURED_AT_A_TIME = 64
FACTS_VERSION = INDEX_VERSION = 1
"""Increase these when the measurements change, or the way an index is built."""
FEWEST = 2


@dataclass(frozen=True)
class Collected:
    """The N images of a set that can be read, and what the commands need of each."""

    config: CurationConfig
    subject: Subject
    images: Images
    names: Sequence[str]
    """Paths relative to --data."""
    files: Sequence[str] | None
    """Absolute paths, where each image is a file."""
    labels: npt.NDArray[np.int64]
    """The class of each; -1 without one."""
    classes: Sequence[str]
    facts: Facts
    unreadable: Sequence[Mapping[str, str]]
    """Path and reason of those that were left out."""

    def encode(self, name: str) -> Features:
        """Give the features (N, C), of unit length, of these weights or of `random` ones of the same network."""
        subject = at_random(self.config_of_session, self.subject) if name == RANDOM else self.subject
        title = f"{called(name)}: encoding {len(self.images)} images"
        return encode_once(subject.weights, self.images, self.how, title)

    def index(self, name: str, z: Features, k: int) -> Index | None:
        """Read or build an index of the features of these weights for the k nearest, and say how good it is.

        None where all images are compared.
        """
        if not needs_index(len(z)):
            return None
        about = {"kind": "index", "version": INDEX_VERSION, "features": digest({"z": z}, {}), "k": k}
        with say_if_slow(f"{called(name)}: building an index of {len(z)} images"):
            index = unpack_index(*compute_once(about, lambda: pack_index(build_index(z, k))))
        said = f"approximate search finds {index.recall:.1%} of the {k} nearest ({index.lists} lists searched)"
        say(f"{called(name)}: {said}")
        return index

    @property
    def how(self) -> Encoding:
        """Return how images are encoded."""
        workers = choose_workers(self.config_of_session.workers, self.images)
        return dataclasses.replace(self.subject.how, unit=True, workers=workers)

    @property
    def config_of_session(self) -> EmbedConfig:
        """Return the settings that evaluations share."""
        return _session_config(self.config)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Return the weights to compare with."""
        return (RANDOM,) if self.config.baseline and self.config.weights != RANDOM else ()

    def picture(self, row: int) -> str:
        """Make the thumbnail of an image, WebP in base64; an empty text where it can no longer be read."""
        try:
            return base64.b64encode(thumbnail(see(self.images, row), THUMBNAIL_SIDE, QUALITY)).decode("ascii")
        except BadInputError:
            return ""

    def label(self, row: int) -> str:
        """Give the name of an image's class; an empty text where it has none."""
        return self.classes[self.labels[row]] if self.labels[row] >= 0 else ""


def _session_config(config: CurationConfig) -> EmbedConfig:
    known = {field.name for field in dataclasses.fields(EmbedConfig)} - {"out"}
    values = {name: getattr(config, name) for name in known if hasattr(config, name)}
    return EmbedConfig(out=Path(os.devnull), **values)


@contextmanager
def collect_images(config: CurationConfig) -> Iterator[Collected]:
    """Open the images of a command, leave out those that cannot be read, and measure the others.

    Raises BadInputError for settings out of range, a folder for results that cannot be written, weights or images that
    are not there, and where fewer than two images can be read.
    """
    check(config)
    _require_result_folder(config.out)
    with session(_session_config(config)) as subject:
        if distributed.world_size() > 1:
            raise BadInputError(f"this command runs in one process: {distributed.world_size()} were started")
        parts = all_splits(config.data, config.split, config.exclude, subject.weights.white_level, subject.weights.form)
        prefixes = [_prefix(config.data, split, images, len(parts)) for split, images in parts.items()]
        whole: Images = Joined(tuple(parts.values()), tuple(prefixes))
        names = [whole.name(row) for row in range(len(whole))]
        labels, classes = label_splits(parts)
        facts, reasons = measure_images(whole, choose_workers(config.workers, whole))
        rows = np.setdiff1d(np.arange(len(whole)), np.array(list(reasons), np.int64))
        unreadable = [{"path": names[row], "reason": one_line(reasons[row])} for row in sorted(reasons)]
        if unreadable:
            few = list_names(one["path"] for one in unreadable)
            warnings.warn(f"left out {counted(len(unreadable), 'image')} that cannot be read: {few}", stacklevel=3)
        if len(rows) < FEWEST:
            raise BadInputError(f"--data {config.data}: {len(rows)} images can be read, expected {FEWEST} or more")
        kept = [names[row] for row in rows]
        with say_if_slow(f"looking for the files of {len(kept)} images"):
            files = _files(config.data, kept)
        yield Collected(
            config, subject, Subset(whole, rows), kept, files, labels[rows],
            classes, facts.take(rows), unreadable,
        )  # fmt: skip


def _prefix(data: str, split: str, images: Images, splits: int) -> str:
    """Say what leads from --data to the names of a split."""
    path = expand_home(data)
    if images.root is not None and path.is_dir():
        below = os.path.relpath(os.path.realpath(os.fsdecode(images.root)), os.path.realpath(path))
        return "" if below == "." else f"{below}/"
    return f"{split}/" if splits > 1 else ""


def _files(data: str, names: Sequence[str]) -> list[str] | None:
    path = expand_home(data)
    folder = os.path.abspath(path if path.is_dir() else path.parent)
    files = [os.path.join(folder, name) for name in names]
    return files if os.path.exists(data) and all(map(os.path.isfile, files)) else None


# --- facts ----------------------------------------------------------------------------------------------------------


def measure_images(images: Images, workers: int) -> tuple[Facts, dict[int, str]]:
    """Read the facts of all images where they are kept, or measure them; and why some cannot be read.

    Those that could not be read are tried again each time: a file may have been out of reach.
    """
    about = {
        "kind": "facts", "version": FACTS_VERSION, "images": digest_files(images),
        "white_level": images.white_level,
    } | ({} if images.form is None else {"form": describe_digest(images.form)})  # fmt: skip

    def compute(parts: Parts) -> Kept:
        found = parts.read()
        done = sum(len(tensors["height"]) for tensors, _ in found)
        ranges = [range(start, min(start + MEASURED_AT_A_TIME, len(images)))
                  for start in range(done, len(images), MEASURED_AT_A_TIME)]  # fmt: skip
        made = show_progress(
            load_ahead(partial(_measure_rows, images), ranges, workers), f"measuring {len(images)} images", len(ranges)
        )
        new = list[tuple[Facts, dict[int, str]]]()
        for one in made:
            new.append(one)
            if len(new) * MEASURED_AT_A_TIME >= IMAGES_IN_A_PART:
                found.append(_join(new))
                parts.write(len(found) - 1, *found[-1], sum(len(tensors["height"]) for tensors, _ in found[:-1]))
                new.clear()
        return _join([*((Facts.from_tensors(tensors), more["unreadable"]) for tensors, more in found), *new])

    tensors, more = compute_in_parts(about, compute)
    facts, unreadable = Facts.from_tensors(tensors), dict[int, str]()
    for row in map(int, more["unreadable"]):
        found, reason = _measure_rows(images, range(row, row + 1))
        for column, value in found.to_tensors().items():
            getattr(facts, column)[row] = value.numpy()[0]
        unreadable |= reason
    return facts, unreadable


def _join(measured: Sequence[tuple[Facts, Mapping[Any, str]]]) -> Kept:
    """Give facts, and why some images have none, as they are kept."""
    reasons = {str(row): reason for _, own in measured for row, reason in own.items()}
    return Facts.stack([facts for facts, _ in measured]).to_tensors(), {"unreadable": reasons}


def _measure_rows(images: Images, rows: range) -> tuple[Facts, dict[int, str]]:
    parts, reasons = list[Facts](), dict[int, str]()
    for row in rows:
        try:
            parts.append(measure_image(see(images, row), images.encoded(row)))
        except BadInputError as error:
            parts.append(blank_facts())
            reasons[row] = str(error)
    return Facts.stack(parts), reasons


# --- results --------------------------------------------------------------------------------------------------------


def _require_result_folder(out: Path | None) -> None:
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise BadInputError(f"--out {out}: that is a file: give the name of a folder")
    if not takes_files(out):
        raise BadInputError(f"--out {out}: no file can be written there: give another folder")


def write_results(
    found: Collected,
    command: str,
    *,
    table: tuple[Sequence[str], Sequence[Sequence[object]]],
    lists: Mapping[str, Sequence[int]],
    lead: str,
    parts: Sequence[tuple[str, str, str]],
) -> dict[str, Any]:
    """Write COMMAND.csv, the lists of images and COMMAND.html to --out; return the table's rows and the files' paths.

    Raises BadInputError where that fails: each file is the old one or the new one then.
    """
    out, rows = found.config.out, [dict(zip(table[0], row, strict=True)) for row in table[1]]
    if out is None:
        return {"files": {}, "table": rows}
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    program = f"Made by momentum-contrast {version('momentum-contrast')} on {made}."
    page = curation_page(f"{command}: {found.config.data}", lead, parts, found.unreadable, program)
    contents = {f"{command}.csv": write_table(*table), f"{command}.html": page.encode()}
    contents |= {name: write_list(found, own, name) for name, own in lists.items()}
    for name, content in contents.items():
        try:
            replace_file(out / name, content)
        except OSError as error:
            raise BadInputError(f"--out {out / name}: cannot be written ({error.strerror})") from error
    say(f"written to {out}: {', '.join(contents)}")
    if lists and not found.files:
        say(f"--data takes no list of these images, which are no files of their own: to train on a list, unpack "
            f"{found.config.data} and repeat {command} on the folder")  # fmt: skip
    return {"files": {name: str(out / name) for name in contents}, "table": rows}


def write_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    """Write a table as CSV; names that are no text keep their bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def write_list(found: Collected, rows: Sequence[int], name: str) -> bytes:
    """Write images as a text list, a path on each line, absolute where they are files: --data takes it anywhere.

    Warns of names that no line can hold, and leaves them out.
    """
    paths = [(found.files or found.names)[row] for row in rows]
    odd = [path for path in paths if len(path.splitlines()) != 1]
    if odd:
        warnings.warn(
            f"{name}: left out {counted(len(odd), 'name')} with a line break: {list_names(odd)}", stacklevel=3
        )
    lines = "".join(f"{path}\n" for path in paths if len(path.splitlines()) == 1)
    return lines.encode("utf-8", "surrogateescape")
