"""Weights on huggingface.co: `--weights hf://OWNER/NAME[@REVISION][/FILE]` in, and `moco export --push` out."""

import re
from pathlib import Path

from moco.errors import BadInputError, VoidError, one_line
from moco.interop.calling import call, given_flag
from moco.interop.folders import INDEX, NAMES, read_pieces
from moco.runtime.hub import Address, digest_file, fetch_hub_file, hub_errors, parse_address, quiet

BESIDE = ("config.json", "preprocessor_config.json")
"""Files that say what the weights in the same folder are."""
REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def fetch_weights(weights: str) -> Path:
    """Return the file of weights of an address, with the files beside it that describe it.

    Without a FILE it is the first of the usual names that the repository has; of an index all pieces are fetched.
    Raises BadInputError where there is none, or it cannot be fetched.
    """
    address = parse_address(weights, given_flag())
    if address.kind != "model":
        raise BadInputError(f"{call(weights)}: a data set: give it as --data")
    folder, _, name = address.path.rpartition("/")
    start = f"{folder}/" if folder else ""
    for file in (name,) if name else NAMES:
        found = fetch_hub_file(address, start + file, given_flag())
        if found is not None:
            _fetch_beside(address, start, found)
            return found
    lacking = f"file {address.path}" if name else f"file called {', '.join(NAMES)}: name it, {weights}/FILE"
    raise BadInputError(f"{call(weights)}: the repository has no {lacking}")


def _fetch_beside(address: Address, start: str, found: Path) -> None:
    for file in BESIDE:
        fetch_hub_file(address, start + file, given_flag(), optional=True)
    if found.name.endswith(INDEX):
        for piece in read_pieces(found):
            if fetch_hub_file(address, start + piece, given_flag()) is None:
                raise BadInputError(
                    f"{call(address.text)}: its index names {piece}, which the repository does not have"
                )


def require_repository(name: str) -> None:
    """Raise BadInputError for what is no name of a repository."""
    if not REPOSITORY.fullmatch(name):
        raise BadInputError(f"--push {name}: expected OWNER/NAME, the name of a repository on huggingface.co")


def push(path: Path, repository: str) -> str:
    """Send a file, or a folder's files, to a repository of models, and return the address of the commit.

    A repository that is not there is made, and is private. Raises BadInputError where that cannot be done, and
    VoidError where the hub has another content afterwards.
    """
    import huggingface_hub  # here, since it takes a second
    from huggingface_hub.hf_api import RepoFile

    api, message = huggingface_hub.HfApi(), f"Upload {path.name} by moco export"
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()} or {path.name: path}
    try:
        with quiet():
            api.create_repo(repository, private=True, exist_ok=True)
            if path.is_dir():
                commit = api.upload_folder(repo_id=repository, folder_path=path, commit_message=message)
            else:
                commit = api.upload_file(
                    repo_id=repository, path_or_fileobj=path, path_in_repo=path.name, commit_message=message
                )
            there = api.get_paths_info(repository, list(files), revision=commit.oid)
    except hub_errors() as error:
        reason = one_line(error.__cause__ or error)[:200] or type(error).__name__
        raise BadInputError(
            f"--push {repository}: {reason}; {path} is written: log in with hf auth login, by a token that may write, "
            f"and send it with hf upload {repository} {path}"
        ) from error
    sent = {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in there if isinstance(entry, RepoFile)
    }
    for name, file in files.items():
        if sent.get(name) not in (digest_file(file, large=True), digest_file(file, large=False)):
            raise VoidError(f"--push {repository}: {name} has another digest there than here: send it again")
    return str(commit.commit_url)
