"""Copies of the project: as of a commit, and as it lies in the working tree."""

import shutil
import subprocess
import tarfile
from pathlib import Path


def copy_commit(repository: Path, commit: str, folder: Path) -> None:
    """Write the files of a commit. Raises ValueError for what is no commit of the repository."""
    known = git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if known.returncode:
        raise ValueError(f"--against {commit}: not a commit of {repository}: give a hash, a branch or a tag")
    archive = folder.with_suffix(".tar")
    done = git(repository, "archive", f"--output={archive}", known.stdout.decode().strip())
    done.check_returncode()
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    archive.unlink()


def copy_working_tree(repository: Path, folder: Path) -> None:
    """Write the files as they are now, also new ones unless git ignores them: later edits do not disturb the runs."""
    listed = git(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed.check_returncode()
    for name in listed.stdout.decode().split("\0"):
        source = repository / name
        if name and source.is_file():  # a file that was removed is still listed
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def git(repository: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """What a git command says."""
    return subprocess.run(["git", "-C", str(repository), *words], capture_output=True, check=False)
