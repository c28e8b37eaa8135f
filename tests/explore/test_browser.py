"""The explorer in headless Chromium: the map is drawn, a click and a dropped image give neighbours, names stay text."""

import asyncio
import io
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image as PillowImage

from moco.errors import BadInputError
from moco.explore.embedding import Collection, Embedding
from moco.explore.marking import Marking
from moco.explore.page import static_page
from moco.explore.server import application
from moco.explore.tray import open_tray
from tests.explore.explored import collection, embedding, features, png
from tests.report.browser import CHROMIUM, Browser
from tests.report.folders import webp
from tests.slow import slow

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
TOKEN, MARGIN = "t0ken", 24
HOSTILE = '</script><img src=x onerror="window.hit=1"><b>'
READY = "document.body.dataset.ready === 'yes'"
TILES = "[...document.querySelectorAll('#found .tile')].map(tile => tile.querySelector('img, canvas'))"
ROWS = f"{TILES}.map(img => Number(img.src.match(/thumbnail.([0-9]+)/)[1]))"
TITLE = "document.querySelector('#chosen h3')?.textContent"


@contextmanager
def served(shown: Collection, embeddings: list[Embedding], marking: Marking | None = None) -> Iterator[str]:
    """The address of a server with these, as `moco explore` prints it."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    app = application(shown, embeddings, TOKEN, port, marking)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/?token={TOKEN}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests."""
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of 60 images by two encoders."""
    with served(collection(), [embedding(), embedding(seed=1, name="other")]) as found:
        yield found


def opened(browser: Browser, page: Path | str, width: int = 1280, height: int = 800, **how: Any) -> None:
    """Show the page and wait for its map, which knows its size when it is painted."""
    browser.open(page, width, height, **how)
    browser.until(READY)
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def where(browser: Browser, row: int, own: Embedding) -> tuple[float, float]:
    """Where a point of the first map lies in the window, the whole being shown."""
    box = browser.evaluate(
        "(f => [f.left, f.top, f.width, f.height])(document.querySelector('.frame').getBoundingClientRect())"
    )
    left, top, width, height = (box[0] + 1, box[1] + 1, box[2] - 2, box[3] - 2)
    scale = min(width, height) - 2 * MARGIN
    x, y = (float(value) - 0.5 for value in own.places[row])
    return left + width / 2 + x * scale, top + height / 2 + y * scale


def expected(row: int, seed: int = 0) -> list[int]:
    """The neighbours by a plain sort."""
    z = features(60, seed).astype(np.float64)
    return [int(other) for other in np.argsort(-(z @ z[row])) if other != row][:24]


def drawn(browser: Browser, file: Path, scale: int = 1) -> set[int]:
    """The points of the first map, of 60, that stand out from what is beside all of them."""
    content = browser.screenshot(file, whole=False)
    pixels = np.asarray(PillowImage.open(io.BytesIO(content)).convert("RGB")).astype(int)
    x, y = zip(*(where(browser, row, embedding()) for row in range(60)), strict=True)
    empty = pixels[round((min(y) - 12) * scale), round((min(x) - 12) * scale)]
    there = [pixels[round(down * scale), round(across * scale)] for across, down in zip(x, y, strict=True)]
    return {row for row in range(60) if abs(there[row] - empty).sum() > 60}


@pytest.mark.parametrize(
    ("width", "phone", "dark"), [slow(1280, False, False), (1280, False, True), (360, True, False)]
)
def test_it_draws(browser: Browser, address: str, tmp_path: Path, width: int, phone: bool, dark: bool) -> None:
    """Points are on the map, nothing is on the console, nothing wider than the window, nothing asked for elsewhere."""
    opened(browser, address, width, 800, phone=phone, dark=dark)
    assert browser.evaluate("location.search") == ""
    assert drawn(browser, tmp_path / "page.png", 2 if phone else 1) == set(range(60))
    assert browser.complaints == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    host = address.split("/?")[0]
    assert all(url.startswith(host) for url in browser.requests)


def test_a_click_gives_neighbours(browser: Browser, address: str) -> None:
    """Those of both encoders that a plain sort gives; one of them leads on, and back."""
    opened(browser, address)
    browser.click(*where(browser, 17, embedding()))
    browser.until(f"{TITLE} === '<b>ox</b>'")
    assert browser.evaluate(ROWS) == expected(17) + expected(17, seed=1)
    similarity = browser.evaluate("document.querySelector('#found .similarity').textContent")
    z = features(60).astype(np.float64)
    assert float(similarity.split()[0]) == pytest.approx(z[17] @ z[expected(17)[0]], abs=6e-4)
    browser.evaluate("document.querySelector('#found .tile').click()")
    browser.until(f"{ROWS}[0] === {expected(expected(17)[0])[0]}")
    browser.evaluate("document.getElementById('back').click()")
    browser.until(f"{ROWS}[0] === {expected(17)[0]}")
    assert browser.complaints == []


def test_thumbnails_under_the_pointer(browser: Browser, address: str) -> None:
    """Show the image and its name; beside all points there is nothing."""
    opened(browser, address)
    # A browser may move the pointer itself after a page was loaded, so it is moved again until it counts.
    place, tip = where(browser, 30, embedding()), "document.querySelector('.tip')"
    browser.until(f"!{tip}.hidden", lambda: browser.point(*place))
    assert browser.evaluate(f"{tip}.textContent") == "cat\n30/a.png"
    browser.until(f"{tip}.querySelector('img').naturalWidth === 8")
    left, top = browser.evaluate(
        "(f => [f.left + 3, f.top + 3])(document.querySelector('.frame').getBoundingClientRect())"
    )
    browser.until(f"{tip}.hidden", lambda: browser.point(left, top))


def test_without_a_mouse(browser: Browser, address: str) -> None:
    """Tab reaches the map, arrows go from image to image, Enter shows neighbours, Backspace goes back."""
    opened(browser, address)
    for _ in range(30):
        browser.press("Tab")
        if browser.evaluate("document.activeElement.classList.contains('frame')"):
            break
    browser.press("ArrowRight")
    first = browser.until(
        "document.querySelector('.tip').hidden ? '' : document.querySelector('.tip output').textContent"
    )
    browser.press("ArrowRight")
    second = browser.evaluate("document.querySelector('.tip output').textContent")
    assert first != second
    browser.press("Enter")
    browser.until(TILES + ".length === 48")
    assert browser.evaluate("document.querySelector('#chosen p').textContent") == second.split("\n")[1]
    browser.press("ArrowDown")
    browser.press("Enter")
    browser.until(f"document.querySelector('#chosen p').textContent !== '{second.splitlines()[1]}'")
    browser.press("Backspace")
    browser.until(f"document.querySelector('#chosen p').textContent === '{second.splitlines()[1]}'")


def test_a_dropped_image(browser: Browser, address: str, tmp_path: Path) -> None:
    """Its neighbours are shown; what is no image is refused in words."""
    opened(browser, address)
    (tmp_path / "red.png").write_bytes(png((21, 0, 0)))
    (tmp_path / "text.png").write_text("no image")
    browser.drop(tmp_path / "red.png", 300, 400)
    browser.until(f"{TITLE} === 'red.png'")
    assert browser.evaluate(ROWS)[:24] == [21, *expected(21)[:23]]
    browser.drop(tmp_path / "text.png", 300, 400)
    browser.until("document.getElementById('status').textContent.includes('not an image')")


def test_points_show_until_their_pictures_are_there(browser: Browser, tmp_path: Path) -> None:
    """A picture that is still on its way does not hide its point; nor does one that cannot be read."""
    ready, shown = threading.Event(), collection()

    def late(row: int) -> bytes:
        ready.wait(60)
        if row % 2:
            raise BadInputError("this image cannot be read")
        return shown.thumbnail(row)

    layer = "[...document.querySelector('.frame .pictures').children]"
    with served(replace(shown, thumbnail=late), [embedding(), embedding(seed=1, name="other")]) as page:
        opened(browser, page, dark=True)
        browser.until(f"{layer}.length > 4")
        try:
            assert drawn(browser, tmp_path / "early.png") == set(range(60))
        finally:
            ready.set()
        browser.until(f"{layer}.every(img => img.complete) && {layer}.some(img => !img.hidden)")
        assert browser.evaluate(f"{layer}.every(img => img.hidden === (img.naturalWidth === 0))")
        assert drawn(browser, tmp_path / "late.png") == set(range(60))


def test_pictures_on_the_map(browser: Browser, address: str) -> None:
    """Each lies on its point and none on another; they follow the filters, and can be put away."""
    opened(browser, address)
    layer = "[...document.querySelector('.frame .pictures').children]"
    browser.until(f"{layer}.length && {layer}.every(img => !img.hidden)")
    found = browser.evaluate(
        f"{layer}.map(p => [Number(p.src.match(/thumbnail.([0-9]+)/)[1]), p.getBoundingClientRect()])"
        ".map(([row, box]) => [row, box.left + box.width / 2, box.top + box.height / 2])"
    )
    assert all(math.dist((x, y), where(browser, row, embedding())) < 1.5 for row, x, y in found)
    assert all(math.dist(one[1:], other[1:]) > 40 for one, other in combinations(found, 2))
    browser.evaluate("document.querySelectorAll('#legend button')[1].click()")  # none
    browser.until(f"{layer}.length === 0")
    browser.evaluate("document.querySelectorAll('#legend button')[0].click()")
    browser.until(f"{layer}.length === {len(found)}")
    browser.evaluate("document.getElementById('pictures').click()")
    browser.until(f"{layer}.length === 0")


def test_the_filters(browser: Browser, address: str) -> None:
    """By class and by text; hidden points cannot be reached."""
    opened(browser, address)
    shown = "document.getElementById('status').textContent"
    browser.evaluate("document.querySelectorAll('#legend button')[2].click()")  # after all and none: cat
    assert browser.evaluate(shown) == "40 of 60 images are shown"
    browser.click(*where(browser, 0, embedding()))
    assert browser.evaluate(TITLE) is None
    browser.evaluate(
        "(f => { f.value = 'DOG'; f.dispatchEvent(new Event('input')); })(document.getElementById('find'))"
    )
    browser.until(f"{shown} === '20 of 60 images are shown'")
    browser.evaluate(
        "(c => { c.value = 'clusters'; c.dispatchEvent(new Event('change')); })(document.getElementById('colour'))"
    )
    assert browser.evaluate("document.querySelectorAll('#legend button').length") == 6


def test_the_tray_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    """K keeps, X rejects and goes on to the next, U goes back; a restart shows the marks, and undo still works."""
    shown = collection(names=[HOSTILE])
    listed = "[...document.querySelectorAll('#listed [data-row]')]"
    marks = f"{listed}.map(tile => tile.dataset.mark ?? '')"
    pick = "(own => { own.value = '%s'; own.dispatchEvent(new Event('change')); })(document.getElementById('list'))"

    def press(key: str) -> None:
        browser.evaluate(
            f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
        )

    def open_list(url: str, name: str, count: int) -> None:
        opened(browser, url)
        browser.until("!document.getElementById('tray').hidden")
        browser.evaluate("document.getElementById('tray').open = true")
        browser.evaluate(pick % name)
        browser.until(f"{listed}.length === {count}")

    def marking() -> Marking:
        return Marking(open_tray(tmp_path, shown.names), {"duplicates": lambda: [[3, 4], [7, 8, 9]]})

    with served(shown, [embedding()], marking()) as url:
        open_list(url, "duplicates", 5)
        for key, expected in (("k", ["keep", "", "", "", ""]), ("x", ["keep", "reject", "", "", ""])):
            press(key)
            browser.until(f"JSON.stringify({marks}) === '{json.dumps(expected, separators=(',', ':'))}'")
        press("x")
        browser.until(f"{marks}[2] === 'reject'")
        press("u")
        browser.until(f"{marks}[2] === ''")
        browser.screenshot(tmp_path / "tray.png")
    with served(shown, [embedding()], marking()) as url:
        open_list(url, "reject", 1)
        assert browser.evaluate("document.getElementById('count-keep').textContent") == "1"
        press("u")
        browser.until("document.getElementById('count-reject').textContent === '0'")
        assert browser.evaluate("window.hit") is None
    assert open_tray(tmp_path, shown.names).marks() == {shown.names[3]: "keep"}


def test_hostile_names_are_inert(browser: Browser, tmp_path: Path) -> None:
    """In the page of the server and in the one to send on."""
    shown = collection(classes=(HOSTILE, "dog"), names=[HOSTILE])
    sent = tmp_path / "sent.html"
    tiles = {"picture": webp(size=(64, 64)), "tile": 8, "columns": 8}
    sent.write_text(static_page(shown, [embedding(name=HOSTILE)], tiles, "Made today."), encoding="utf-8")
    with served(shown, [embedding(name=HOSTILE), embedding(seed=1, name=HOSTILE)]) as page:
        for address in (page, sent):
            opened(browser, address)
            browser.click(*where(browser, 30, embedding()))
            browser.until(f"{TITLE} === {json.dumps(HOSTILE)}")
            assert browser.evaluate("window.hit") is None
            assert browser.evaluate("document.querySelectorAll('#maps b, #panel b, #legend b, img[src=x]').length") == 0
            assert browser.complaints == []
    assert browser.requests == [sent.as_uri()]


def test_a_foreign_host_is_refused(browser: Browser, address: str) -> None:
    """A name of elsewhere that leads to this machine shows nothing, even with the token."""
    browser.open(address.replace("127.0.0.1", "foreign.localhost"), 800, 600)
    assert "expected the host 127.0.0.1" in browser.evaluate("document.body.textContent")
