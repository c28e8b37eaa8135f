"""What the explorer answers: the right neighbours, and only for numbers of images."""

import numpy as np
import pytest
from starlette.testclient import TestClient

from moco.explore.embedding import Collection
from moco.explore.server import application
from tests.explore.explored import collection, embedding, features, png

TOKEN, PORT = "t0ken", 8765
OWN = f"http://127.0.0.1:{PORT}"
HOSTILE = '</script><img src=x onerror="window.hit=1">\u202e'


def client(shown: Collection | None = None, *, token: bool = True, host: str = OWN) -> TestClient:
    """Someone who asks; with the token as a program gives it."""
    app = application(shown or collection(), [embedding(), embedding(seed=1, name="other")], TOKEN, PORT)
    headers = {"x-moco-token": TOKEN} if token else {}
    return TestClient(app, base_url=host, headers=headers, raise_server_exceptions=True)


def test_neighbours_of_an_image() -> None:
    """Of both encoders, without the image itself, with cosine distances; several at a time are answered."""
    with client() as asking:
        for row in (0, 7, 59):
            answer = asking.get(f"/neighbours/{row}").json()
            for seed, found in enumerate(answer):
                z = features(60, seed).astype(np.float64)
                distance = 1 - z @ z[row]
                order = [other for other in np.argsort(distance) if other != row][:24]
                assert found["rows"] == order
                assert found["distances"] == pytest.approx(distance[order], abs=1e-4)


def test_a_dropped_image() -> None:
    """Its neighbours by both encoders, the nearest first."""
    with client() as asking:
        found = asking.post("/neighbours", content=png((12, 0, 0))).json()
    assert [one["rows"][0] for one in found] == [12, 12]
    assert found[0]["distances"][0] == pytest.approx(0, abs=1e-4)
    assert len(found[0]["rows"]) == 24


@pytest.mark.parametrize(
    "number",
    ["60", "-1", "1e3", "999999999999999999999", "9" * 5000, "..%2f..%2fetc%2fpasswd", "%00", "\u0663", "a.png"],
)
@pytest.mark.parametrize("what", ["thumbnail", "neighbours"])
def test_only_numbers_of_images(what: str, number: str) -> None:
    """Nothing else names an image."""
    with client() as asking:
        assert asking.get(f"/{what}/{number}").status_code == 404


def test_other_methods() -> None:
    """Change nothing, since there is nothing to change."""
    with client() as asking:
        for method in ("PUT", "DELETE", "PATCH", "POST"):
            assert asking.request(method, "/atlas").status_code == 405


def test_names_are_sent_as_text_of_one_line() -> None:
    """Controls and what turns the direction of writing are spelled out, in the page to send on too."""
    shown = collection(classes=(HOSTILE, "dog\n"), names=[HOSTILE, "\udcff.png"])
    with client(shown) as asking:
        content = asking.get("/atlas").json()
    assert content["classes"][0] == HOSTILE.replace("\u202e", "\\u202e")
    assert content["classes"][1] == "dog\\u000a"
    assert content["names"][1] == "1/?.png"
