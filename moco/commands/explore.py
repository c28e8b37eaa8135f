"""`moco explore`: computes missing features, map and clusters, and serves or writes the page."""

import asyncio
import dataclasses
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moco.errors import BadInputError
from moco.explore.config import FEWEST_IMAGES, ExploreConfig
from moco.explore.trained_on import data_of, excluded_by, most_pixels_of
from moco.explore.tray import open_tray
from moco.runtime.fields import check
from moco.runtime.files import replace_file, require_file_name, takes_files
from moco.runtime.phases import say_if_slow

if TYPE_CHECKING:
    from moco.curation.facts import Facts
    from moco.data.images import Images
    from moco.evaluation.session import Subject
    from moco.explore.embedding import Collection, Embedding
    from moco.explore.marking import Groups
    from moco.explore.tray import Tray

MOST_RUNS = 2
STATIC_IMAGES = 3000
THUMBNAIL_SIDE, TILE_SIDE, QUALITY = 128, 48, 80
LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Sight:
    """Everything that a page shows."""

    images: "Images"
    collection: "Collection"
    embeddings: "Sequence[Embedding]"
    subject: "Subject"
    """The first run's encoder."""


def run(config: ExploreConfig) -> dict[str, Any]:
    """Serve the page until it is interrupted, or write it."""
    from moco.data.decoding import limit_pixels

    _check(config)
    with limit_pixels(config.most_pixels or most_pixels_of(config.runs[0])):
        return _show(config)


def _show(config: ExploreConfig) -> dict[str, Any]:
    listening = None if config.static is not None else _listen(config.port)
    try:
        sight = _computed(config)
        if listening is not None:
            root = "" if sight.images.root is None else os.path.abspath(os.fsdecode(sight.images.root))
            return _serve(sight, open_tray(config.runs[0], sight.collection.names, root), listening)
    finally:
        if listening is not None:
            listening.close()
    assert config.static is not None
    with say_if_slow(f"writing {config.static}"):
        return _write(sight, config.static)


def _check(config: ExploreConfig) -> None:
    if not 1 <= len(config.runs) <= MOST_RUNS:
        raise BadInputError(f"{len(config.runs)} runs are given: expected moco explore RUN, or two runs to compare")
    check(config)
    if config.static is not None and not config.static.parent.is_dir():
        raise BadInputError(f"--static {config.static}: there is no folder {config.static.parent}: make it first")
    if config.static is not None:
        require_file_name("--static", config.static)
    for run in config.runs:
        if not (run / "encoder.safetensors").is_file():
            raise BadInputError(f"{run}: expected a run folder with an encoder.safetensors")
        if not takes_files(run / "evaluations"):
            raise BadInputError(
                f"{run / 'evaluations'}: cannot be written, and the map is stored there: make the folder writable"
            )
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise BadInputError(f"moco explore needs {' and '.join(missing)}: pip install 'momentum-contrast[explore]'")


# --- the page ----------------------------------------------------------------------------------------------------


def _computed(config: ExploreConfig) -> Sight:
    from moco.data.derived import take_evenly
    from moco.data.fingerprint import digest_images
    from moco.data.unreadable import leave_out_unreadable
    from moco.runtime.device import cores

    data = config.data or data_of(config.runs[0])
    whole = _split(config, data)
    images, digest = take_evenly(whole, config.images), digest_images(whole)
    if len(images) < FEWEST_IMAGES:
        raise BadInputError(f"--data {data}: there is one image, expected {FEWEST_IMAGES} or more")
    try:
        return _embed_all(config, data, images, digest)
    except BadInputError:
        readable = leave_out_unreadable(images, cores())
        if not FEWEST_IMAGES <= len(readable) < len(images):
            raise
        return _embed_all(config, data, readable, digest)


def _embed_all(config: ExploreConfig, data: str, images: "Images", digest: str) -> Sight:
    from moco.data.loader import choose_workers
    from moco.evaluation.session import session
    from moco.explore.embed_run import Scope, embed_run
    from moco.interop.metadata import describe_input

    embeddings, subjects = [], []
    kind = "bytes of RGB" if images.form is None else images.form.kind
    for run, name in zip(config.runs, _names(config.runs), strict=True):
        asked = _evaluation(config, run, data)
        with session(asked) as subject:
            taken = describe_input(subject.encoder.plan, subject.weights.form)
            if taken != kind:
                raise BadInputError(f"{run}: takes {taken}, and the images are {kind}: give runs of the same kind")
            how = dataclasses.replace(subject.how, unit=True, workers=choose_workers(asked.workers, images))
            subject = dataclasses.replace(subject, how=how)
            embeddings.append(embed_run(run, subject, images, digest, Scope(config.map_seconds, config.clusters), name))
        subjects.append(subject)
    return Sight(images, _collection(data, images, subjects), embeddings, subjects[0])


def _evaluation(config: ExploreConfig, run: Path, data: str) -> Any:
    from moco.evaluation.config import EmbedConfig

    return EmbedConfig(
        str(run), data, run, device=config.device, batch_size=config.batch_size, workers=config.workers,
        threads=config.threads,
    )  # fmt: skip


def _split(config: ExploreConfig, data: str) -> "Images":
    """Open the images without those that the first run left out, 16-bit files as it saw them."""
    from moco.data.forms import with_shown
    from moco.evaluation.session import all_splits
    from moco.interop.checkpoints import load_weights

    first = config.runs[0]
    exclude = config.exclude or excluded_by(first)
    weights = load_weights(str(first), "")
    form = with_shown(weights.form, config.show_channels)
    splits = all_splits(data, config.split or "all", exclude, weights.white_level, form)
    return next(iter(splits.values()))  # train comes first


def _names(runs: Sequence[Path]) -> list[str]:
    """What the runs are called; two of one name by their folders too."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _collection(data: str, images: "Images", subjects: "Sequence[Subject]") -> "Collection":
    from moco.data.images import see
    from moco.explore.embedding import Collection
    from moco.explore.gallery import thumbnail

    return Collection(
        data, [images.name(row) for row in range(len(images))],
        None if images.labels is None else np.asarray(images.labels), images.classes,
        max(subject.how.image_size for subject in subjects),
        lambda row: thumbnail(see(images, row), THUMBNAIL_SIDE, QUALITY), _encoder(subjects, images),
    )  # fmt: skip


def _encoder(subjects: "Sequence[Subject]", images: "Images") -> Callable[[bytes], list[npt.NDArray[np.float32]]]:
    """An image file -> its features by each encoder."""
    from moco.data.channels import read_channels, to_channels
    from moco.data.decoding import WHITEST, decode_bytes
    from moco.data.images import ArrayImages
    from moco.evaluation.features import encode

    level, form, name = images.white_level or WHITEST, images.form, "the dropped image"

    def encoded(content: bytes) -> list[npt.NDArray[np.float32]]:
        if form is None:
            image = ArrayImages(decode_bytes(content, name, level)[None])
        else:
            image = ArrayImages(to_channels(read_channels(content, name, form.channels), form, name)[None], form=form)
        features = [encode(subject.encoder, image, dataclasses.replace(subject.how, workers=0)) for subject in subjects]
        return [own[0].numpy() for own in features]

    return encoded


def _tray_lists(sight: Sight) -> "dict[str, Callable[[], Groups]]":
    """What computes the lists of the tray, by the first run's features, when a person asks for them."""
    import torch

    from moco.commands.curate import measure_images
    from moco.commands.duplicates import encode_mild_views
    from moco.curation.lists import list_duplicates, list_outliers, list_selection

    z, how = torch.from_numpy(sight.embeddings[0].features), dataclasses.replace(sight.subject.how, workers=0)

    def facts() -> "Facts":
        return measure_images(sight.images, 0)[0]

    return {
        "duplicates": lambda: list_duplicates(z, facts(), *encode_mild_views(sight.subject, sight.images, how, 0)),
        "outliers": lambda: list_outliers(z, facts()),
        "selection": lambda: list_selection(z),
    }


# --- the page -------------------------------------------------------------------------------------------------------


def _listen(port: int) -> socket.socket:
    """A socket of this machine only, before anything long is computed."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOCAL, port))
    except OSError as error:
        listening.close()
        raise BadInputError(f"--port {port}: cannot be used ({error.strerror}): give another, or 0 for any") from error
    listening.listen()  # who connects as soon as the address is printed waits for the server
    return listening


def _serve(sight: Sight, tray: "Tray", listening: socket.socket) -> dict[str, Any]:
    import uvicorn

    from moco.explore.marking import Marking
    from moco.explore.server import application

    token, port = secrets.token_urlsafe(24), listening.getsockname()[1]
    app = application(sight.collection, sight.embeddings, token, port, Marking(tray, _tray_lists(sight)))
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, lifespan="off",
        ws="none", timeout_graceful_shutdown=1,
    )  # fmt: skip
    url = f"http://{LOCAL}:{port}/?token={token}"
    print(f"{len(sight.images)} images: open {url} (on this machine; Ctrl-C ends)", flush=True)
    try:
        asyncio.run(uvicorn.Server(settings).serve(sockets=[listening]))
    except KeyboardInterrupt:
        print()
    return {"port": port, "images": len(sight.images), "runs": [embedding.name for embedding in sight.embeddings]}


def _write(sight: Sight, path: Path) -> dict[str, Any]:
    from moco.data.derived import Subset
    from moco.explore.gallery import sheet
    from moco.explore.page import static_page

    rows = np.linspace(0, len(sight.images) - 1, min(STATIC_IMAGES, len(sight.images))).astype(np.int64)
    images, collection = Subset(sight.images, rows), sight.collection
    some = dataclasses.replace(
        collection, names=[collection.names[row] for row in rows],
        labels=None if collection.labels is None else collection.labels[rows],
    )  # fmt: skip
    embeddings = [
        dataclasses.replace(own, features=own.features[rows], places=own.places[rows], clusters=own.clusters[rows])
        for own in sight.embeddings
    ]
    side, columns = min(TILE_SIDE, collection.image_size), max(1, round(len(rows) ** 0.5))
    tiles = {"picture": sheet(images, side, columns), "tile": side, "columns": columns}
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    content = static_page(
        some, embeddings, tiles, f"Made by momentum-contrast {version('momentum-contrast')} on {made}."
    )
    try:
        replace_file(path, content.encode())
    except OSError as error:
        raise BadInputError(f"--static {path}: cannot be written ({error.strerror})") from error
    size = len(content.encode())
    print(f"the page is {path} ({size / 1e6:.2f} MB, {len(rows)} images): open it in any browser")
    return {"page": str(path), "bytes": size, "images": len(rows)}
