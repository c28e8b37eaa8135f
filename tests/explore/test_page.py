"""The page to send on: nothing is asked for, and names stay text."""

import json
import re
from pathlib import Path

import numpy as np

from moco.explore.page import static_page
from tests.explore.explored import collection, embedding, features
from tests.explore.test_server import HOSTILE
from tests.report.folders import Parsed


def test_the_page_to_send_on(tmp_path: Path) -> None:
    """Asks for nothing; holds the neighbours among its images; names cannot end its data."""
    shown = collection(classes=(HOSTILE, "dog"), names=[HOSTILE])
    picture = {"picture": "AAAA" * 1000, "tile": 8, "columns": 8}
    page = static_page(shown, [embedding()], picture, "Made today.")
    found = Parsed(page)
    assert found.trouble == []
    assert not found.all("img")
    assert not found.all("link")[1:]
    assert [attributes.get("src") for attributes, _ in found.scripts] == [None, None]
    assert re.search(r"script-src 'sha256-[^']+'; base-uri", page)
    data = json.loads(next(text for attributes, text in found.scripts if attributes.get("id") == "data"))
    z = features(60).astype(np.float64)
    order = [other for other in np.argsort(-(z @ z[5])) if other != 5][:12]
    assert data["stored"]["found"][0][5]["rows"] == order
    assert data["classes"][0].startswith("</script>")
    assert data["stored"]["picture"] == picture["picture"]  # names are cut, the thumbnails are not
