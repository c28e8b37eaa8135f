"""Runs of `moco transfer` on the report page."""

import json
from pathlib import Path

from moco.commands.report import run as report
from moco.commands.transfer import run as transfer
from moco.report.config import ReportConfig
from tests.commands.test_transfer import config


def test_the_page_shows_figures_curves_and_pictures(tmp_path: Path) -> None:
    """Of all trials; names from the data stay text, and nothing is asked for from outside."""
    own = config(tmp_path, "voc-semantic", trials=2)
    result = transfer(own)
    path = own.out / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": "<script>alert(1)</script>"}))
    report(ReportConfig((own.out,)))
    page = (own.out / "report.html").read_text(encoding="utf-8")
    assert f"{result['mIoU']:.2f}</strong> ± {result['deviation']['mIoU']:.2f}" in page
    assert "<script>alert" not in page
    assert page.count("data:image/webp;base64,") == 2 * 2  # of each trial one image, twice
    assert "Loss of the pixels" in page
    assert "--crop-size" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
