"""The explorer answers those who may ask with the right neighbours, others with nothing, and takes in only images."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from moco.explore.embedding import Collection
from moco.explore.neighbours import find_neighbours
from moco.explore.page import static_page
from moco.explore.server import application
from moco.explore.upload import MOST_BYTES
from tests.explore.explored import collection, embedding, features, png
from tests.report.folders import Parsed

TOKEN, PORT = "t0ken", 8765
OWN = f"http://127.0.0.1:{PORT}"
HOSTILE = '</script><img src=x onerror="window.hit=1">\u202e'


def client(shown: Collection | None = None, *, token: bool = True, host: str = OWN) -> TestClient:
    """Someone who asks; with the token as a program gives it."""
    app = application(shown or collection(), [embedding(), embedding(seed=1, name="other")], TOKEN, PORT)
    headers = {"x-moco-token": TOKEN} if token else {}
    return TestClient(app, base_url=host, headers=headers, raise_server_exceptions=True)


@pytest.mark.parametrize("count", [1, 3, 70, 1000, 5003])
@pytest.mark.parametrize("parts", [128, 65536])
def test_neighbours_are_those_of_a_plain_sort(count: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same similarities in the same order, whatever the parts; no image comes twice."""
    monkeypatch.setattr("moco.evaluation.knn.BANK_AT_A_TIME", parts)
    z = (np.round(features(count) * 4) / 4).astype(np.float32)  # many are equal
    queries = np.concatenate([z[: min(count, 9)], features(3, seed=5)])
    rows, similarity = find_neighbours(z, queries, 25)
    for query, own, values in zip(queries, rows, similarity, strict=True):
        expected = z.astype(np.float64) @ query.astype(np.float64)
        order = np.argsort(-expected, kind="stable")[:25]
        assert values == pytest.approx(expected[order], abs=1e-6)
        assert expected[own] == pytest.approx(expected[order], abs=1e-6)
        assert len(set(own.tolist())) == len(own) == min(25, count)


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


@pytest.mark.parametrize("path", ["/", "/atlas", "/thumbnail/1", "/neighbours/1", "/explore.js", "/nothing"])
def test_without_the_token_there_is_nothing(path: str) -> None:
    """Neither with none, nor with a wrong one in the address, a header or a cookie."""
    with client(token=False) as asking:
        assert asking.get(path).status_code == 403
        assert asking.get(path, params={"token": "wrong"}).status_code == 403
        assert asking.get(path, headers={"x-moco-token": "wrong"}).status_code == 403
        assert asking.get(path, headers={"cookie": f"moco-explore-{PORT}=wrong"}).status_code == 403
        if path != "/":  # the address gives the token once, for the page
            assert asking.get(path, params={"token": TOKEN}).status_code == 403


def test_the_address_gives_a_cookie() -> None:
    """That other sites cannot send and scripts cannot read; with it everything can be asked for."""
    with client(token=False) as asking:
        answer = asking.get("/", params={"token": TOKEN})
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"moco-explore-{PORT}={TOKEN};")
        for part in ("HttpOnly", "SameSite=Strict", "Path=/"):
            assert part in cookie
        assert TOKEN not in answer.text
        assert asking.get("/atlas").status_code == 200
        assert asking.get("/thumbnail/1").headers["content-type"] == "image/webp"


def test_headers() -> None:
    """No inline script works, nothing is guessed, framed or told on."""
    with client() as asking:
        for path in ("/", "/atlas", "/thumbnail/1", "/nothing"):
            headers = asking.get(path).headers
            policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == "'none'"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
        page = Parsed(asking.get("/").text)
        assert page.trouble == []
        assert [text for _, text in page.scripts] == ["", ""]
        assert all(asking.get(f"/{script['src']}").status_code == 200 for script in page.all("script"))
        assert all(asking.get(link["href"] or "").status_code == 200 for link in page.all("link")[1:])


@pytest.mark.parametrize(
    "host",
    ["http://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "http://0.0.0.0:8765", "http://x.localhost:8765"],
)
def test_another_host_is_refused(host: str) -> None:
    """A name of elsewhere that leads here (DNS rebinding) gets nothing, even with the token."""
    with client(host=host) as asking:
        assert asking.get("/atlas").status_code == 421


def test_another_origin_is_refused() -> None:
    """What another site's page asks for, and what does not say from which page it comes and has but the cookie."""
    with client() as asking:
        assert asking.get("/atlas", headers={"origin": OWN}).status_code == 200
        assert asking.get("/atlas", headers={"origin": f"http://localhost:{PORT}"}).status_code == 200
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"https://127.0.0.1:{PORT}", ""):
            assert asking.get("/atlas", headers={"origin": origin}).status_code == 403
            assert asking.post("/neighbours", content=png(), headers={"origin": origin}).status_code == 403
    with client(token=False) as asking:
        asking.get("/", params={"token": TOKEN})
        assert asking.post("/neighbours", content=png()).status_code == 403
        assert asking.post("/neighbours", content=png(), headers={"origin": OWN}).status_code == 200


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


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header tells of many pixels."""
    content = bytearray(png())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"", 422, "not an image"),
        (b"GIF89a" + b"\0" * 3, 422, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "not an image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 422, "not an image"),
        (png()[:50], 422, "cannot be read"),
        (bomb(8000, 8000), 413, "million"),
        (bomb(100_000, 100_000), 413, "million"),
        (b"\0" * (MOST_BYTES + 1), 413, "20 MiB"),
    ],
    ids=["empty", "cut gif", "eps", "svg", "cut png", "64 million", "bomb", "long"],
)
def test_what_is_not_taken(content: bytes, status: int, told: str) -> None:
    """Each has an answer that says why; the encoder goes on."""
    with client() as asking:
        answer = asking.post("/neighbours", content=content)
        assert answer.status_code == status
        assert told in answer.json()["error"]
        assert asking.post("/neighbours", content=png((3, 0, 0))).status_code == 200


def test_a_long_upload_that_does_not_tell_its_length() -> None:
    """Is cut off while it comes."""
    sent = 0

    def endless() -> object:
        nonlocal sent
        while sent < 4 * MOST_BYTES:
            sent += 1 << 20
            yield b"\0" * (1 << 20)

    with client() as asking:
        assert asking.post("/neighbours", content=endless()).status_code == 413  # type: ignore[arg-type]


def test_names_are_sent_as_text_of_one_line() -> None:
    """Controls and what turns the direction of writing are spelled out, in the page to send on too."""
    shown = collection(classes=(HOSTILE, "dog\n"), names=[HOSTILE, "\udcff.png"])
    with client(shown) as asking:
        content = asking.get("/atlas").json()
    assert content["classes"][0] == HOSTILE.replace("\u202e", "\\u202e")
    assert content["classes"][1] == "dog\\u000a"
    assert content["names"][1] == "1/?.png"


def test_the_page_to_send_on(tmp_path: Path) -> None:
    """Asks for nothing; holds the neighbours among its images; names cannot end its data."""
    shown = collection(classes=(HOSTILE, "dog"), names=[HOSTILE])
    picture = {"picture": "AAAA", "tile": 8, "columns": 8}
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
