"""Files of published weights: from the caches of torch and Hugging Face, else downloaded once; digests are checked."""

import contextlib
import http.client
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch

from moco.errors import BadInputError, one_line
from moco.runtime import distributed
from moco.runtime.hub import digest_file, hub_errors, quiet, require_sound

SILENCE = 30.0
"""Seconds without a byte after which a download is given up; torch's own waits for as long as it takes."""
IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")
"""The beginning of a SHA-256 in the name of a file of torchvision or timm."""


def from_url(url: str, what: str, otherwise: str = "") -> Path:
    """Return the file of a URL, downloaded once into torch's cache and checked by the digest in its name.

    Raises BadInputError where it is neither here nor to be had, with where to put it, or what to do `otherwise`, and
    where the file has another digest.
    """
    path = place_of_url(url)
    digest = IN_NAME.search(path.name)
    if path.is_file():
        found = digest_file(path, large=True) if digest else ""
        if digest and not found.startswith(digest[1]):
            raise BadInputError(
                f"{what}: {path} is damaged or another file, its SHA-256 begins with {found[: len(digest[1])]} and not "
                f"with {digest[1]}: remove it, and it is fetched again"
            )
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _impatient():
                torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
        except (OSError, RuntimeError, http.client.HTTPException) as error:  # a wrong digest is a RuntimeError
            raise BadInputError(
                f"{what}: {url} cannot be fetched ({one_line(error) or type(error).__name__}): fetch it on a machine "
                f"that can, and put the file at {path}{otherwise}"
            ) from error
    return path


def place_of_url(url: str) -> Path:
    """Say where torch's cache keeps the file of a URL, whether or not it is there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / urlparse(url).path.rsplit("/", 1)[-1]


def find_in_hub_cache(repository: str, revision: str | None, files: Sequence[str]) -> Path | None:
    """Find the first of `files` of a repository of huggingface.co in its cache; None where there is none."""
    import huggingface_hub  # here, since it takes a second

    found = (huggingface_hub.try_to_load_from_cache(repository, file, revision=revision) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def from_hub(repository: str, revision: str | None, files: Sequence[str], what: str, otherwise: str) -> Path:
    """Return the first of `files` that a repository of huggingface.co has, from its cache, else downloaded into it.

    Raises BadInputError where it is neither here nor to be had, with what to do `otherwise`, and where the content does
    not have the digest under which the cache keeps it.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = find_in_hub_cache(repository, revision, files)
    if cached is not None:
        return require_sound(cached, what)
    page, why = f"https://huggingface.co/{repository}", f"it has none of {', '.join(files)}"
    if distributed.rank() == 0:
        print(f"fetching {files[0]} from {page}")
    failures = hub_errors()
    for file in files:
        try:
            with quiet():
                found = huggingface_hub.hf_hub_download(repository, file, revision=revision)
        except failures as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue  # the repository has no such file
            why = one_line(error.__cause__ or error) or type(error).__name__
            break
        return require_sound(Path(found), what)
    raise BadInputError(
        f"{what}: {page} cannot be fetched ({why}): download {files[0]} on another machine, and give {otherwise}"
    )


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
