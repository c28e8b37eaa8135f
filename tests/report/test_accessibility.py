"""The pages by axe-core in headless Chromium: contrast, labels, roles and order, light and dark, on any width."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from moco.curation.page import Strip, Tile, curation_page, render_strips
from moco.explore.marking import Marking
from moco.explore.page import static_page
from moco.explore.tray import open_tray
from moco.report.page import page
from moco.report.runs import distinct_names, read_run
from moco.study.budgets import AtBudget
from moco.study.definition import find_study
from moco.study.page import study_page
from moco.study.rows import list_rows
from moco.study.statistics import agreement, judge_claims
from tests.explore.explored import collection, embedding
from tests.explore.test_browser import served
from tests.report.browser import CHROMIUM, Browser
from tests.report.folders import gallery, metrics, webp, write_run
from tests.slow import slow

AXE = find_spec("axe_core_python")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(AXE is None, reason="axe-core-python is not installed: pip install '.[dev]'"),
]
MADE = "Made today."
FOUND = """axe.run().then(found => found.violations.flatMap(rule => rule.nodes.map(node =>
    `${rule.id}: ${node.html.slice(0, 120)}: ${[...node.any, ...node.all, ...node.none].map(one => one.message)}`)))"""
SEVERAL = "document.querySelectorAll('details').forEach(part => { part.open = true; })"
"""What is folded away is read too."""
CHOSEN = f"""(async () => {{
    {SEVERAL};
    document.querySelectorAll('#legend button')[3].click();
    document.querySelector('.frame').focus();
    for (const key of ['ArrowRight', 'Enter'])
        document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key, bubbles: true}}));
    for (let wait = 0; wait < 200 && !document.querySelector('#found .tile'); wait++)
        await new Promise(done => setTimeout(done, 20));
    return document.querySelectorAll('#found .tile').length;
}})()"""
"""One class is hidden, an image is chosen, and its neighbours are there."""


def a_report(folder: Path, count: int) -> str:
    """The page on runs with all that the gallery, an evaluation and the monitor leave."""
    stored = {"gallery": gallery(["a/1.png", "b/2.png"], ["cat", "dog"]), "knn": {"top1": 50.0}}
    runs = [read_run(write_run(folder / f"{i}", evaluations=stored, lines=metrics(100 + i))) for i in range(count)]
    return page(distinct_names(runs), MADE)


def a_study() -> str:
    """The page of a study of the paper's, over three seeds and two budgets."""
    study = find_study("shuffling-bn")
    over = {name: [(0, 10.0), (50, 40.0), (100, 60.0)] for name in study.over_time}
    results: list[dict[str, Any]] = [
        {"arm": arm.name, "seed": seed, "state": "done", "command": "moco pretrain quick", "machine": {"cores": 2},
         "figures": {one.name: 50.0 + seed + 5 * i for one in study.outcomes}, "over_time": over}
        for i, arm in enumerate(study.arms) for seed in range(3)
    ]  # fmt: skip
    rows = list_rows(study, study.arms, results)
    findings = {"verdict": "It holds.", "random": 30.0, "results": results, "notes": ["Not finished: one."],
                "budget": "Each cell: 100 images.", "extrapolation": None,
                "looks": [AtBudget(images, rows, judge_claims(study, rows)) for images in (50, 100)]}  # fmt: skip
    return study_page(study, rows, agreement(rows), judge_claims(study, rows), findings, MADE)


def a_curation() -> str:
    """The page of `moco duplicates`."""
    tiles = [Tile(0, "a.png", "keep, 8x8", "same"), Tile(1, "b.png", "near 0.950", "other")]
    strips = render_strips([Strip(None, tiles, "Group 1")], lambda row: webp((row * 99, 90, 90)))
    return curation_page("duplicates: photos", "Two images.", [("groups", "Groups", strips)], [], MADE)


def a_map() -> str:
    """The explorer's page to send on."""
    tiles = {"picture": webp(size=(64, 64)), "tile": 8, "columns": 8}
    return static_page(collection(), [embedding()], tiles, MADE)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests, which knows axe."""
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def violations(browser: Browser, address: Path | str, prepare: str, width: int, dark: bool) -> list[str]:
    """What axe finds wrong with the page, after `prepare` was run in it."""
    assert AXE is not None
    assert AXE.origin is not None
    browser.open(address, width, 800, phone=width < 500, dark=dark)
    if prepare == CHOSEN:
        browser.until("document.body.dataset.ready === 'yes'")
        assert browser.evaluate(prepare) > 0
    else:
        browser.evaluate(prepare)
    browser.evaluate(Path(AXE.origin).with_name("axe.min.js").read_text(encoding="utf-8"))
    found: list[str] = browser.evaluate(FOUND)
    return found


LIGHT, DARK = (1280, False), (360, True)
"""A wide window in light colours, and a phone in dark ones; what differs between them is the style alone."""


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        slow("report", LIGHT),
        ("reports", DARK),
        ("study", LIGHT),
        slow("study", DARK),
        ("curation", LIGHT),
        ("map", DARK),
    ],
)
def test_a_file_is_accessible(browser: Browser, tmp_path: Path, kind: str, way: tuple[int, bool]) -> None:
    """A report on one run and on two, a study, a page of curation, and a map to send on: axe finds nothing."""
    made: dict[str, Callable[[], str]] = {
        "report": lambda: a_report(tmp_path, 1), "reports": lambda: a_report(tmp_path, 2),
        "study": a_study, "curation": a_curation, "map": a_map,
    }  # fmt: skip
    file = tmp_path / "page.html"
    file.write_text(made[kind](), encoding="utf-8")
    assert violations(browser, file, CHOSEN if kind == "map" else SEVERAL, *way) == []


@pytest.mark.parametrize("way", [slow(LIGHT), DARK])
def test_the_explorer_is_accessible(browser: Browser, tmp_path: Path, way: tuple[int, bool]) -> None:
    """Served, with two maps, a tray and an image chosen."""
    shown = collection()
    marking = Marking(open_tray(tmp_path, shown.names), {"duplicates": lambda: [[3, 4], [7, 8, 9]]})
    with served(shown, [embedding(), embedding(seed=1, name="other")], marking) as address:
        assert violations(browser, address, CHOSEN, *way) == []


def test_axe_notices(browser: Browser, tmp_path: Path) -> None:
    """A picture without text and grey letters on white."""
    file = tmp_path / "page.html"
    file.write_text(
        '<html lang="en"><title>t</title><main><h1>t</h1><img src="data:,"><p style="color:#bbb">x y</p></main>'
    )
    found = violations(browser, file, SEVERAL, 800, False)
    assert sorted(one.split(":")[0] for one in found) == ["color-contrast", "image-alt"]
