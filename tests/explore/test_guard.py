"""The explorer answers those who may ask, and others with nothing."""

import pytest

from tests.explore.explored import png
from tests.explore.test_server import OWN, PORT, TOKEN, client
from tests.report.folders import Parsed


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
    """No inline script works, nothing is guessed, framed or passed on."""
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
        assert page.scripts
        assert all(text == "" for _, text in page.scripts)
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
