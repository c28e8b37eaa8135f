"""A data set on huggingface.co, hf://datasets/OWNER/NAME[@REVISION][/FOLDER] -> its files in the hub's cache.

Only files of images, Parquet files and tar files are fetched: a script of the repository is neither fetched nor run.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from moco.data.images import EXTENSIONS
from moco.data.named import data_home
from moco.data.tables import PARQUET
from moco.errors import BadInputError, counted
from moco.runtime import distributed
from moco.runtime.files import replace_file
from moco.runtime.hub import DATASETS, Address, fetch_hub_file, hub_errors, parse_address, quiet, unreachable
from moco.runtime.progress import show_progress
from moco.runtime.records import read_object

FLAG = "--data"
LISTINGS = "hub"
"""Below the folder of the named data sets: which files a repository has, and at which commit."""
CONVERTED = "refs/convert/parquet"
"""Where the hub keeps the Parquet files that it makes of data sets of other forms."""
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
AT_A_TIME = 8
"""Files that are fetched at once."""


def is_hosted(data: str) -> bool:
    """Tell whether `--data` is the address of a data set on the hub."""
    return data.startswith(DATASETS)


def fetch_data(data: str) -> Path:
    """Return the folder, or the single file, in the hub's cache that holds the data set of an address.

    What was fetched once is taken from the cache, at the commit of that time, without a network. Raises BadInputError
    where the repository has no images, or cannot be fetched.
    """
    address = parse_address(data, FLAG)
    place = data_home() / LISTINGS / f"{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}.json"
    commit, files = _read_listing(place) or _list_files(address, place)
    pinned = replace(address, revision=commit)
    fetched = list[Path]()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = pool.map(lambda file: fetch_hub_file(pinned, file, FLAG, said=False), files)
        for file, path in zip(files, show_progress(found, f"fetching {data}", len(files)), strict=True):
            if path is None:
                raise BadInputError(f"{FLAG} {data}: {file} is not there any more: remove {place}, and try again")
            fetched.append(path)
    if files == [address.path] or (len(files) == 1 and files[0].lower().endswith(ARCHIVES)):
        return fetched[0]
    top = fetched[0].parents[files[0].count("/")]
    return top / address.path


def _read_listing(place: Path) -> tuple[str, list[str]] | None:
    """Read which files were fetched, and their commit; None where nothing was, or that is damaged."""
    try:
        listing = read_object(place) if place.is_file() else {}
    except (BadInputError, OSError):
        return None
    commit, files = listing.get("commit"), listing.get("files")
    sound = isinstance(commit, str) and isinstance(files, list) and files and all(_is_inside(file) for file in files)
    return (commit, files) if sound else None  # type: ignore[return-value]


def _list_files(address: Address, place: Path) -> tuple[str, list[str]]:
    """Ask the hub which files to fetch; of a set without any, those that it made of it. Keeps the answer."""
    import huggingface_hub  # here, since it takes a second

    api, files, commit = huggingface_hub.HfApi(), list[str](), ""
    for revision in (address.revision, CONVERTED):
        try:
            with quiet():
                found = api.dataset_info(address.repository, revision=revision)
        except hub_errors() as error:
            if revision == CONVERTED and commit:
                break
            raise unreachable(address, FLAG, error) from error
        commit, names = str(found.sha), [one.rfilename for one in found.siblings or ()]
        files = _choose([name for name in names if _is_inside(name)], address.path)
        if files or address.revision is not None:
            break
    if not files:
        raise BadInputError(
            f"{FLAG} {address.text}: no images there: expected Parquet files, tar files, image files, or one archive; "
            f"a script that loads a data set is not run"
        )
    if distributed.rank() == 0:
        said = f"{counted(len(files), 'file')} of commit {commit[:12]}; later commands use this commit too"
        print(f"{FLAG} {address.text}: {said}")
    replace_file(place, json.dumps({"commit": commit, "files": files}).encode())
    return commit, files


def _choose(names: Sequence[str], path: str) -> list[str]:
    """Choose the files of a data set: Parquet, else tar and image files, else a lone archive."""
    if path in names:
        return [path]
    below = sorted(name for name in names if not path or name.startswith(f"{path}/"))
    for endings in ((PARQUET,), (".tar", *EXTENSIONS)):
        found = [name for name in below if name.lower().endswith(endings)]
        if found:
            return found
    archives = [name for name in below if name.lower().endswith(ARCHIVES)]
    return archives if len(archives) == 1 else []


def _is_inside(name: object) -> bool:
    """Return whether a name from the hub is that of a file inside its repository."""
    return isinstance(name, str) and bool(name) and not {"", ".", ".."} & set(name.split("/")) and "\0" not in name
