"""`moco embed`: writes the features of images to a file, in pieces, so that a killed command can continue."""

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from moco.data.derived import Subset
from moco.data.fingerprint import digest_images
from moco.data.forms import describe_digest
from moco.data.images import Images, Labels, Split
from moco.data.loader import choose_workers
from moco.data.replacement import list_names
from moco.errors import BadInputError, counted, one_line
from moco.evaluation.config import EmbedConfig
from moco.evaluation.features import Encoding, outputs
from moco.evaluation.identity import digest_encoder
from moco.evaluation.maps import find_map
from moco.evaluation.pieces import Floats, Pieces, opened_pieces, plan_pieces
from moco.evaluation.preparation import describe_preparation
from moco.evaluation.session import Subject, all_splits, say, session
from moco.evaluation.stored import Origin, find_stored, map_stored, read_origin, record_origin, write_origin
from moco.evaluation.tables import Table, require_writer, write_features
from moco.runtime import distributed
from moco.runtime.fields import check
from moco.runtime.files import require_file_name
from moco.runtime.phases import say_if_slow
from moco.runtime.progress import show_progress

UNLABELLED = -1
Parts = Mapping[Split, Images]
Rows = Mapping[Split, Labels]


@dataclass(frozen=True)
class Reading:
    """What is read off an encoder."""

    module: nn.Module
    shape: tuple[int, ...]
    """The shape of an image's features: (C,), or (C, h, w) of a map."""
    how: Encoding
    settings: Mapping[str, Any]
    """All that a feature depends on but its image."""

    @property
    def width(self) -> int:
        """Count the numbers of one image."""
        return int(np.prod(self.shape))


def run(config: EmbedConfig) -> dict[str, Any]:
    """`moco embed`: write features (N, C), labels (-1: none), paths, splits and the classes' names."""
    check(config)
    _require_out(config)
    with session(config) as subject:
        weights = subject.weights
        parts = all_splits(
            config.data, config.split, config.exclude, weights.white_level, weights.form, text=subject.how.text
        )
        reading = _read_off(config, subject)
        was = read_origin(config.out) if config.add else None
        stored = None if was is None else find_stored(config.out, was, parts, reading.settings)
        about = {
            **reading.settings, "images": {name: digest_images(images, times=True) for name, images in parts.items()},
            "batch_size": reading.how.batch_size, "processes": distributed.world_size(),
            "added_to": None if was is None else was.checksum,
        }  # fmt: skip
        with contextlib.ExitStack() as held:
            pieces: Pieces | None = None
            if distributed.rank() == 0:
                pieces = held.enter_context(opened_pieces(config.out, about, reading.width))
            unreadable, encoded = _encode_pieces(config, parts, reading, pieces, was, stored)
            if pieces is not None:
                with say_if_slow(f"writing {config.out}"):
                    _write(config, parts, reading, pieces, unreadable)
                    pieces.remove()
        names = [{"path": parts[split].name(row), "reason": one_line(unreadable[split][row])}
                 for split in parts for row in sorted(unreadable[split])]  # fmt: skip
        count = sum(map(len, parts.values())) - len(names)
        added = "" if was is None else f", {encoded} of them new"
        said = " x ".join(map(str, reading.shape))
        of = counted(count, "document" if subject.how.text else "image")
        say(f"{config.out}: features of {of}, {counted(said, 'number')} each ({', '.join(parts)}){added}")
    if names:
        few = list_names(one["path"] for one in names)
        warnings.warn(f"left out {counted(len(names), 'image')} that cannot be read: {few}", stacklevel=2)
    return {
        "out": str(config.out), "images": count, "width": reading.shape[0], "shape": list(reading.shape),
        "encoded": encoded, "unreadable": names, "splits": list(parts), "weights": config.weights,
    }  # fmt: skip


def _require_out(config: EmbedConfig) -> None:
    require_writer(config.out)
    if not config.out.parent.is_dir():
        raise BadInputError(f"--out {config.out}: there is no folder {config.out.parent}: make it first")
    require_file_name("--out", config.out)
    if config.features == "map" and (config.unit or config.out.suffix == ".csv"):
        what = "--unit scales vectors" if config.unit else f"--out {config.out}: a table has a column for each number"
        raise BadInputError(
            f"--features map: {what}, but a map is not a vector: leave --unit out, and write .npy or .parquet"
        )


def _read_off(config: EmbedConfig, subject: Subject) -> Reading:
    encoder, how = subject.encoder, dataclasses.replace(subject.how, unit=config.unit)
    module, shape = encoder.reading(how.output), cast(tuple[int, ...], (encoder.width(how.output),))
    if config.features == "map":
        module, shape = find_map(encoder, how.image_size)
    settings: dict[str, Any] = {
        "weights": digest_encoder(encoder, how.output), "image size": how.image_size, "features": config.features,
        "unit": how.unit, "precision": how.precision, "mean": list(how.mean), "std": list(how.std),
        "white level": subject.weights.white_level, "form": str(subject.weights.form),
        **({} if how.text else describe_preparation(how.image_size)),
    }  # fmt: skip
    if subject.weights.form is not None:
        settings["form"] = describe_digest(subject.weights.form)
    return Reading(module, shape, how, settings)


# --- pieces ---------------------------------------------------------------------------------------------------------


def _encode_pieces(
    config: EmbedConfig, parts: Parts, reading: Reading, pieces: Pieces | None, was: Origin | None, stored: Rows | None
) -> tuple[dict[Split, dict[int, str]], int]:
    """Encode the images that no intact piece and no earlier file has; return unreadable ones and a count."""
    names, total = list(parts), sum(map(len, parts.values()))
    plan = plan_pieces([len(images) for images in parts.values()], reading.how.batch_size, reading.width)
    earlier = distributed.from_first(lambda: [] if pieces is None else list(pieces.unreadable))[: len(plan)]
    unreadable: dict[Split, dict[int, str]] = {name: {} for name in names}
    for (number, _), left_out in zip(plan, earlier, strict=False):
        unreadable[names[number]] |= left_out
    if earlier:
        say(f"{config.out}: continuing after {sum(len(rows) for _, rows in plan[: len(earlier)])} of {total} images")
    old: Floats | None = None
    if pieces is not None and was is not None and len(earlier) < len(plan):
        old = map_stored(config.out, was, reading.width, pieces.folder)
    work = [(names[number], rows) for number, rows in plan[len(earlier) :]]
    at_once, encoded = reading.how.batch_size * distributed.world_size(), 0
    batches = sum(-(-int((_stored_rows(stored, *one) < 0).sum()) // at_once) for one in work)
    ticks = show_progress(itertools.count(), f"encoding {total} images", batches)
    next(ticks)
    for split, rows in work:
        places = _stored_rows(stored, split, rows)
        images, wanted = parts[split], np.arange(rows.start, rows.stop)
        how = dataclasses.replace(reading.how, workers=choose_workers(config.workers, images))
        made, kept, reasons = _encode_readable(reading, how, images, wanted[places < 0], ticks)
        unreadable[split] |= reasons
        encoded += len(kept)
        if pieces is not None:
            features = np.zeros((len(rows), reading.width), np.float32)
            features[kept - rows.start] = made
            if old is not None:
                features[places >= 0] = old[places[places >= 0]]
            there = np.isin(wanted, list(reasons), invert=True)
            pieces.append(features[there], reasons)
    return unreadable, encoded


def _stored_rows(stored: Rows | None, split: Split, rows: range) -> Labels:
    """Return where an earlier file has these images; -1 where it has not."""
    return np.full(len(rows), -1) if stored is None else stored[split][rows.start : rows.stop]


def _encode_readable(
    reading: Reading, how: Encoding, images: Images, rows: Labels, ticks: Iterator[int]
) -> tuple[Floats, Labels, dict[int, str]]:
    """Encode those of the rows that can be read: features, which rows they are of, and why the others cannot.

    Only where something cannot be read is each image looked at; of several processes each would look at others, so
    there it is an error.
    """
    if not len(rows):
        return np.zeros((0, reading.width), np.float32), rows, {}
    device = torch.device(next(reading.module.parameters()).device)
    try:
        made = outputs(reading.module, reading.width, Subset(images, rows), how, title=ticks, device=device)
    except BadInputError:
        reasons = dict[int, str]() if distributed.world_size() > 1 else dict(_unreadable(images, rows))
        if not reasons:
            raise
        rest = rows[np.isin(rows, list(reasons), invert=True)]
        made_of_rest, kept, _ = _encode_readable(reading, how, images, rest, ticks)
        return made_of_rest, kept, reasons
    return made.numpy(), rows, {}


def _unreadable(images: Images, rows: Labels) -> Iterator[tuple[int, str]]:
    for row in rows.tolist():
        try:
            images[row]
        except BadInputError as error:
            yield row, str(error)


# --- the file -------------------------------------------------------------------------------------------------------


def _write(
    config: EmbedConfig, parts: Parts, reading: Reading, pieces: Pieces,
    unreadable: Mapping[Split, Mapping[int, str]],
) -> None:  # fmt: skip
    """Write the file, then what it was made of."""
    rows = {
        split: np.setdiff1d(np.arange(len(images)), np.array(list(unreadable[split]), np.int64))
        for split, images in parts.items()
    }
    if not pieces.rows:
        split, own = next((split, own) for split, own in unreadable.items() if own)
        raise BadInputError(f"--data {config.data}: no image can be read; the first of {split}: {own[min(own)]}")
    features, (labels, classes) = pieces.read(), label_splits(parts)
    ends = np.cumsum([0, *(len(images) for images in parts.values())]).tolist()
    whole = np.concatenate([start + own for start, own in zip(ends[:-1], rows.values(), strict=True)])
    table = Table(
        features.reshape(-1, *reading.shape),
        [images.name(row) for split, images in parts.items() for row in rows[split].tolist()],
        [split for split in parts for _ in range(len(rows[split]))], labels[whole], classes,
    )  # fmt: skip
    write_features(config.out, table)
    write_origin(config.out, record_origin(parts, rows, reading.settings, features))


def label_splits(parts: Mapping[Any, Images]) -> tuple[Labels, tuple[str, ...]]:
    """Number the classes of all splits together: the label of each image (-1 without one), and the classes' names."""
    classes = tuple(dict.fromkeys(name for images in parts.values() for name in images.classes))
    number = {name: i for i, name in enumerate(classes)}
    labels: Sequence[Labels] = [
        np.full(len(images), UNLABELLED)
        if images.labels is None
        else np.array([number[name] for name in images.classes], np.int64)[images.labels]  # splits may differ in these
        for images in parts.values()
    ]
    return np.concatenate(labels).astype(np.int64), classes
