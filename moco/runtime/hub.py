"""Files of huggingface.co by address, hf://OWNER/NAME[@REVISION][/PATH]: from its cache, else downloaded into it.

Nothing of a repository is run. Each file is checked against the digest under which the cache keeps it.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moco.errors import BadInputError, one_line
from moco.runtime import distributed

HUB = "hf://"
DATASETS = "hf://datasets/"
ADDRESS = re.compile(r"(?P<repository>\b[\w.-]+\b/\b[\w.-]{1,96}\b)(?:@(?P<revision>[\w.-]+))?(?:/(?P<path>[^\0\\]+))?")
FORBIDDEN = re.compile(r"--|\.\.|\.git$")
"""In the name of a repository."""
SHA256, GIT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")
"""How the cache names a file's content: large ones by SHA-256, others as git does, by SHA-1 behind a head."""


@dataclass(frozen=True)
class Address:
    """A repository of models or data sets, and what is meant in it."""

    text: str
    repository: str
    revision: str | None
    path: str
    """A file or folder in it; empty for all of it."""
    kind: str
    """`model` or `dataset`."""


def parse_address(text: str, flag: str) -> Address:
    """Read an address. Raises BadInputError for what is none."""
    kind = "dataset" if text.startswith(DATASETS) else "model"
    found = ADDRESS.fullmatch(text.removeprefix(DATASETS if kind == "dataset" else HUB))
    path = (found["path"] or "").strip("/") if found else ""
    named = found is not None and not FORBIDDEN.search(found["repository"])
    if found is None or not named or any(part in ("", ".", "..") for part in path.split("/") if path):
        example = f"{DATASETS if flag == '--data' else HUB}OWNER/NAME, with @REVISION and /PATH behind it where needed"
        raise BadInputError(f"{flag} {text}: expected {example}")
    return Address(text, found["repository"], found["revision"], path, kind)


def fetch_hub_file(address: Address, file: str, flag: str, *, optional: bool = False, said: bool = True) -> Path | None:
    """Return a file of a repository, from the cache, else downloaded; None where the repository has no such file.

    What is fetched is `said`. Raises BadInputError where it cannot be fetched (with `optional` it is None then, too),
    and where its content has another digest than the cache says.
    """
    import huggingface_hub  # here, since it takes a second
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    how = {"repo_type": address.kind, "revision": address.revision}
    cached = huggingface_hub.try_to_load_from_cache(address.repository, file, **how)
    if isinstance(cached, str):
        return require_sound(Path(cached), f"{flag} {address.text}")
    if cached is not None:  # the cache knows that it does not exist
        return None
    if said and not optional and distributed.rank() == 0:
        print(f"fetching {file} from huggingface.co/{address.repository}")
    try:
        with quiet():
            found = huggingface_hub.hf_hub_download(address.repository, file, **how)  # type: ignore[call-overload]
    except hub_errors() as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        if optional:
            return None
        raise unreachable(address, flag, error) from error
    return require_sound(Path(found), f"{flag} {address.text}")


def unreachable(address: Address, flag: str, error: BaseException) -> BadInputError:
    """Say that a repository cannot be read, and why."""
    reason = one_line(error.__cause__ or error)[:200] or type(error).__name__
    return BadInputError(
        f"{flag} {address.text}: cannot be fetched ({reason}): is the name right, do you have access (hf auth login), "
        f"and is there a network? Else download it elsewhere, and give the file or folder"
    )


def hub_errors() -> tuple[type[Exception], ...]:
    """List what huggingface_hub raises where something cannot be fetched or sent."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    of_http = [kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind is not Exception]
    return (OSError, RuntimeError, ValueError, EntryNotFoundError, *of_http)


def require_sound(path: Path, what: str) -> Path:
    """Return the file itself. Raises BadInputError where it has another digest than the cache says."""
    content = path.resolve()
    large = SHA256.fullmatch(content.name)
    if large or GIT.fullmatch(content.name):
        found = digest_file(content, large=bool(large))
        if found != content.name:
            kind = "SHA-256" if large else "SHA-1"
            raise BadInputError(
                f"{what}: {content} is damaged, its {kind} is {found[:12]}...: remove it, and it is fetched again"
            )
    return path


def digest_file(path: Path, *, large: bool) -> str:
    """Compute the digest by which the hub knows a file: SHA-256, or git's SHA-1."""
    head = b"" if large else b"blob %d\0" % path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256() if large else hashlib.sha1(head, usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back the library's own lines on each attempt: what came of it is said once."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
