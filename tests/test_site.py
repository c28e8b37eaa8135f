"""The pages for users: links lead somewhere, the site lists every page, and its reference names every flag."""

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest

import moco
from moco.cli import COMMANDS
from moco.runtime.fields import flag

ROOT = Path(moco.__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md"))
SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """scripts/reference.py, which writes the pages of reference."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """The generator checks pages and headings; this also pictures, tables and files."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"`[^`\n]*`", "", text))
    local = [link for link in found if "://" not in link and not link.startswith(("mailto:", "reference/"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_site_lists_pages_that_exist() -> None:
    """A page that nobody can reach is as good as none (`make docs` refuses it); what is listed exists, once."""
    listed = [name for name in re.findall(r"[\w/-]+\.md", SITE) if not name.startswith("reference/")]
    assert len(listed) == len(set(listed))
    assert set(listed) <= {page.name for page in PAGES}


def test_the_reference_names_every_flag_and_every_public_name(
    reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing in a table that Markdown or HTML would take for markup."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a flag that must be given has a placeholder
    reference.main(tmp_path)
    commands = (tmp_path / "commands.md").read_text(encoding="utf-8")
    for name, kind in COMMANDS.items():
        section = commands.partition(f"## moco {name}\n")[2]
        for field in dataclasses.fields(kind):
            renamed = {"baseline": "no_baseline", "baselines": "baseline", "goal": "for"}.get(field.name, field.name)
            if field.name not in ("run", "runs", "task", "name"):  # by their place
                assert flag(renamed) in section, f"{name}: {field.name}"
    rows = [line for line in commands.splitlines() if line.startswith("| `--")]
    assert len(rows) > 200
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    assert "<" not in re.sub(r"`[^`]*`", "", commands)
    python = (tmp_path / "python.md").read_text(encoding="utf-8")
    functions = set(re.findall(r"^::: [\w.]+\.(\w+)$", python, re.MULTILINE))
    assert functions == set(moco.__all__) - {"RECIPES"}
