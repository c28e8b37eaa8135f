#!/usr/bin/env python3
"""Photograph the pages of a run in headless Chromium, for docs/ and to look at them.

usage: PYTHONPATH=. .venv/bin/python scripts/screenshots.py explore RUN OUT.png [FLAG...]   (flags of `moco explore`)
       PYTHONPATH=. .venv/bin/python scripts/screenshots.py page FILE.html FOLDER   (light, dark, phone and print)

docs/explore.png is `explore RUN docs/explore.png --images 1000`, with a run of `continued` on cats-dogs.
"""

import base64
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.report.browser import Browser

READY = "document.body.dataset.ready === 'yes'"
PICTURES = "[...document.querySelectorAll('.frame .pictures img')]"
TILES = "[...document.querySelectorAll('#found .tile img')]"
"""The pictures on the map, and those of the neighbours."""
SIZES = {"light": (1280, False, False), "dark": (1280, False, True), "phone": (390, True, False)}
"""Width in pixels, whether it is a phone, and whether the colours are dark."""


def main(kind: str, source: Path, target: Path, flags: list[str]) -> None:
    """Photograph the explorer of a run with the neighbours of an image, or one page in every way that people see it."""
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        if kind == "explore":
            photograph_explorer(browser, source, target, flags)
        else:
            photograph_page(browser, source, target)


def photograph_explorer(browser: Browser, run: Path, target: Path, flags: list[str]) -> None:
    """Serve the run, choose a picture on the right of the map, and photograph the window."""
    command = [sys.executable, "-m", "moco", "explore", str(run), "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            browser.open(address, 1280, 800)
            browser.until(READY)
            browser.until(f"{PICTURES}.length && {PICTURES}.every(picture => picture.complete)")
            x, y = browser.evaluate(
                f"(boxes => boxes[boxes.length * 3 >> 2])({PICTURES}.map(picture => picture.getBoundingClientRect())"
                ".sort((a, b) => a.left - b.left).map(box => [box.left + box.width / 2, box.top + box.height / 2]))"
            )
            browser.click(x, y)
            browser.until(f"{TILES}.length && {TILES}.slice(0, 16).every(picture => picture.complete)")
            browser.screenshot(target, whole=False)
        finally:
            server.terminate()


def photograph_page(browser: Browser, page: Path, folder: Path) -> None:
    """Photograph the whole page light, dark and on a phone, and print it to PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (width, phone, dark) in SIZES.items():
        browser.open(page.resolve(), width, 900, phone=phone, dark=dark)
        browser.screenshot(folder / f"{name}.png")
        wide = browser.evaluate("document.documentElement.scrollWidth")
        print(f"{name}: {wide} pixels wide in a window of {width}, {len(browser.complaints)} complaints")
    browser.open(page.resolve(), 1280, 900)
    (folder / "print.pdf").write_bytes(base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"]))


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("explore", "page"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
