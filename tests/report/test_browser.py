"""The page in headless Chromium: it draws without a complaint, fits every width, and works by mouse and by keyboard."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moco.report.page import page
from moco.report.runs import distinct_names, read_run
from tests.report.browser import CHROMIUM, Browser
from tests.report.folders import gallery, metrics, write_run
from tests.slow import slow

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
HOSTILE = '</script><img src=x onerror="window.hit=1"><!-- '
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests."""
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages on one run, on three, and on one with hostile names."""
    folder = tmp_path_factory.mktemp("pages")
    stored = {"gallery": gallery(["a/1.png", "b/2.png"], ["cat", "dog"]), "knn": {"top1": 50.0}}
    runs = [read_run(write_run(folder / name, evaluations=stored)) for name in ("one", "two")]
    runs.append(read_run(write_run(folder / "three", lines=metrics(4000, 5), recipe="v2", data="a" * 300)))
    names = {"gallery": gallery([HOSTILE], [HOSTILE, "other"])}
    hostile = read_run(write_run(folder / "hostile", evaluations=names, data=HOSTILE))
    found = {}
    for name, shown in (("one", runs[:1]), ("three", distinct_names(runs)), ("hostile", [hostile])):
        found[name] = folder / f"{name}.html"
        found[name].write_text(page(shown, "Made today."), encoding="utf-8")
    return found


@pytest.mark.parametrize("times", [1, slow(5)])
def test_nothing_of_the_page_before_is_counted(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, times: int
) -> None:
    """A page that never stops asking for images and writing to the console leaves no trace in the next one."""
    busy = tmp_path / "busy.html"
    ask = "setInterval(() => { for (const n of Array(20).keys()) new Image().src = 'missing' + n; console.log(1) })"
    busy.write_text(f"<script>{ask}</script>", encoding="utf-8")
    for _ in range(times):
        browser.open(busy, 800, 600)
        browser.evaluate("new Promise(done => setTimeout(done, 50))")
        browser.open(pages["one"], 800, 600)
        assert browser.requests == [pages["one"].as_uri()]
        assert browser.complaints == []


SCREEN, PHONE = (1280, False, True), (360, True, False)


@pytest.mark.parametrize(
    ("name", "width", "phone", "dark"),
    [
        ("three", *SCREEN), ("hostile", *PHONE),
        slow("one", *SCREEN), slow("one", *PHONE), slow("three", *PHONE), slow("hostile", *SCREEN),
    ],
)  # fmt: skip
def test_it_draws(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, width: int, phone: bool, dark: bool
) -> None:
    """Nothing on the console, nothing asked for but the file, every picture decoded, nothing wider than the window."""
    browser.open(pages[name], width, 900, phone=phone, dark=dark)
    assert browser.evaluate("[...document.images].every(i => i.loading !== 'lazy')")  # lazy ones are not printed
    loaded = "Promise.all([...document.images].map(i => i.decode())).then(() => true)"
    assert browser.evaluate(loaded) is True
    assert browser.complaints == []
    assert browser.requests == [pages[name].as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("window.hit") is None
    content = browser.screenshot(tmp_path / "page.png")
    assert content.startswith(PNG)
    assert len(content) > 20_000
    light = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"
    assert light is not dark


def test_it_would_complain(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    """A page that runs or asks for what it must not is noticed."""
    text = pages["one"].read_text(encoding="utf-8")
    changed = tmp_path / "changed.html"
    changed.write_text(
        text.replace("</main>", '<script>window.hit=1</script><img src="x.png" alt=""></main>'), encoding="utf-8"
    )
    browser.open(changed, 800, 600)
    assert browser.evaluate("window.hit") is None
    assert any("Content Security Policy" in text for text in browser.complaints)


TIP = (
    "[...document.querySelectorAll('.tip')].map(tip => tip.hidden ? null : tip.querySelector('output').textContent)[0]"
)
RING = "['cx', 'cy'].map(name => Number(document.querySelector('.ring').getAttribute(name)))"


def test_the_map_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    """Tab reaches it; arrows go to images that lie that way; Escape ends; a class is hidden by its button."""
    browser.open(pages["one"], 1000, 800)
    for _ in range(60):
        browser.press("Tab")
        if browser.evaluate("document.activeElement.classList.contains('frame')"):
            break
    assert browser.evaluate("document.activeElement.classList.contains('frame')")
    browser.press("ArrowRight")
    assert browser.evaluate(TIP).split("\n")[0] in ("cat", "dog")
    before = browser.evaluate(RING)
    browser.press("ArrowRight")
    after = browser.evaluate(RING)
    assert after[0] > before[0]
    browser.press("ArrowUp")
    assert browser.evaluate(RING)[1] < after[1]
    browser.press("Escape")
    assert browser.evaluate(TIP) is None
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.dataset.label") == "0"
    browser.press("Enter")
    assert browser.evaluate("document.querySelector('path[data-label=\"0\"]').getAttribute('visibility')") == "hidden"
    assert browser.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    assert browser.complaints == []


def test_the_map_by_mouse(browser: Browser, pages: dict[str, Path]) -> None:
    """The image under the pointer is named, its tile of the sheet drawn; beside all points there is nothing."""
    browser.open(pages["one"], 1000, 800)
    where = """(() => {
        const svg = document.querySelector('.frame > svg'); svg.scrollIntoView({block: 'center', behavior: 'instant'});
        const box = svg.getBoundingClientRect(); return [box.left, box.top, box.width / 1048];
    })()"""
    left, top, scale = browser.evaluate(where)
    browser.point(left + (5 * 37 + 24) * scale, top + (5 * 91 + 24) * scale)  # the sixth point
    assert browser.evaluate(TIP) == "dog\nb/2.png\n\u2713 guessed right"
    assert browser.evaluate(RING) == [5 * 37, 5 * 91]
    pixel = "[...document.querySelector('.tip canvas').getContext('2d').getImageData(48, 48, 1, 1).data]"
    red, green, blue, opaque = browser.evaluate(pixel)
    assert opaque == 255
    assert red > 150 > 80 > max(green, blue)
    browser.point(left + (1000 + 24) * scale, top + 24 * scale)
    assert browser.evaluate(TIP) is None


def test_it_can_be_read_without_a_script(browser: Browser, pages: dict[str, Path]) -> None:
    """Curves, tables and the points of the map are there."""
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(pages["one"], 1000, 800)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.evaluate("document.querySelectorAll('.map path.dots').length") >= 2
    assert browser.evaluate("document.querySelectorAll('path.curve').length") >= 5
    assert browser.evaluate("document.querySelector('.frame > svg').getBoundingClientRect().width") > 300
