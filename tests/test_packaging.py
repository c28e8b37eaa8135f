"""What is shipped: one version everywhere, every file that the code reads, licences, and images that can be built."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import moco

ROOT = Path(moco.__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
)
IMAGES = sorted((ROOT / "docker").glob("Dockerfile.*"))


def test_the_version_is_the_same_everywhere() -> None:
    """In the metadata, for citations, and at the top of the changes."""
    version = PROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first[1] == version


def test_the_wheel_holds_every_file_of_the_package() -> None:
    """Pages, styles and tables that the code reads are package data."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["moco"]
    held = {path for pattern in patterns for path in (ROOT / "moco").glob(pattern)}
    command = ["git", "-C", str(ROOT), "ls-files", "moco"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    if not listed:
        pytest.skip("not in a working tree of git")
    others = {ROOT / name for name in listed if not name.endswith(".py")}
    assert others <= held
    assert all((ROOT / name).is_file() for name in PROJECT["project"]["license-files"])


def test_names_differ_by_more_than_case() -> None:
    """On macOS and Windows two such files of the repository would be one."""
    command = ["git", "-C", str(ROOT), "ls-files"]
    names = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    assert len({name.casefold() for name in names}) == len(set(names))


def test_every_extra_is_pinned() -> None:
    """Each library that an extra names has an exact version in constraints.txt."""
    extras = {**PROJECT["project"]["optional-dependencies"], "": PROJECT["project"]["dependencies"]}
    wanted = {re.split(r"[\[>=<]", one)[0] for some in extras.values() for one in some}
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in PINS}
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} - pinned == {"momentum-contrast"}


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_the_images_copy_what_exists_and_install_what_is_tested(image: Path) -> None:
    """No engine is needed for that: sources exist and are let through, versions are those of constraints.txt."""
    text = image.read_text(encoding="utf-8")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert steps[0] == ["FROM", "python:3.11-slim"]
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for _, rest in (step for step in steps if step[0] == "COPY"):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in kept
    for name in ("torch", "torchvision"):
        assert f"{name}=={PINS[name]}" in text
    extras = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(extras[0].split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert ["USER", "1000"] in steps
    assert ["ENTRYPOINT", '["moco"]'] in steps
    assert len(IMAGES) == 2
