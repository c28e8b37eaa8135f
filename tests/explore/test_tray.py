"""Marks are kept in the run's folder step by step, survive a restart, and can be taken back."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from moco.errors import BadInputError
from moco.explore.marking import Marking
from moco.explore.server import application
from moco.explore.tray import FILE, open_tray
from tests.explore.explored import collection, embedding

TOKEN, PORT = "t0ken", 8765
OWN = f"http://127.0.0.1:{PORT}"


def client(run: Path, calls: list[str] | None = None) -> TestClient:
    """Someone who knows the token, before a tray whose duplicates are one pair."""
    shown = collection()

    def duplicates() -> list[list[int]]:
        if calls is not None:
            calls.append("duplicates")
        return [[3, 4]]

    marking = Marking(open_tray(run, shown.names, "/photos"), {"duplicates": duplicates})
    app = application(shown, [embedding()], TOKEN, PORT, marking)
    return TestClient(app, base_url=OWN, headers={"x-moco-token": TOKEN})


def test_marks_survive_a_restart_and_go_back(tmp_path: Path) -> None:
    """The last mark of an image counts; undo goes back over a restart, to nothing and no further."""
    with client(tmp_path) as asking:
        asking.post("/mark", json={"row": 3, "mark": "keep"})
        asking.post("/mark", json={"row": 4, "mark": "reject"})
        last = asking.post("/mark", json={"row": 3, "mark": "reject"}).json()
    assert last == {"marks": {"3": "reject", "4": "reject"}, "counts": {"keep": 0, "reject": 2}, "steps": 3}
    with client(tmp_path) as asking:
        assert asking.get("/tray").json() == last
        assert asking.get("/marks/reject.txt").text == "/photos/3/a.png\n/photos/4/a.png\n"
        assert asking.post("/undo").json()["marks"] == {"3": "keep", "4": "reject"}
        assert asking.post("/mark", json={"row": 3, "mark": None}).json()["marks"] == {"4": "reject"}
        for _ in range(5):
            found = asking.post("/undo").json()
    assert found == {"marks": {}, "counts": {"keep": 0, "reject": 0}, "steps": 0}


def test_lists_are_computed_once(tmp_path: Path) -> None:
    """When they are asked for."""
    calls = list[str]()
    with client(tmp_path, calls) as asking:
        assert not calls
        assert [asking.get("/tray/duplicates").json() for _ in range(2)] == [[[3, 4]], [[3, 4]]]
        assert asking.get("/tray/others").status_code == 404
    assert calls == ["duplicates"]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"row": 60, "mark": "keep"}', b'{"row": -1, "mark": "keep"}', b'{"row": true, "mark": "keep"}',
     b'{"row": 1, "mark": "gone"}', b'{"row": 1}', b"[" * 900, b"x" * 5000],
)  # fmt: skip
def test_what_is_no_mark(tmp_path: Path, body: bytes) -> None:
    """Is refused, and nothing is written."""
    with client(tmp_path) as asking:
        assert asking.post("/mark", content=body).status_code == 422
        assert asking.get("/marks/..%2fkeep.txt").status_code == 404
        assert asking.get("/marks/other.txt").status_code == 404
    assert not (tmp_path / FILE).exists()


def test_only_who_knows_the_token(tmp_path: Path) -> None:
    """May mark."""
    with client(tmp_path) as asking:
        del asking.headers["x-moco-token"]
        assert asking.post("/mark", json={"row": 3, "mark": "keep"}).status_code == 403
    assert not (tmp_path / FILE).exists()


def test_marks_of_images_that_are_not_shown(tmp_path: Path) -> None:
    """Stay, and are in the lists."""
    open_tray(tmp_path, ["a.png", "b.png"]).mark(1, "keep")
    other = open_tray(tmp_path, ["a.png"])
    other.mark(0, "keep")
    assert other.write_list("keep") == b"a.png\nb.png\n"
    assert other.describe()["marks"] == {0: "keep"}


@pytest.mark.parametrize("content", ["", "[]", '{"steps": [["a.png", "gone"]]}', '{"steps": [[1, "keep"]]}'])
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    """Is refused: marks are a person's work."""
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(content)
    with pytest.raises(BadInputError, match="the marks cannot be read"):
        open_tray(tmp_path, ["a.png"])


def test_a_full_disk(tmp_path: Path) -> None:
    """Is said, and the marks are the ones before."""
    (tmp_path / FILE.parent).write_text("a file in the folder's place")
    with client(tmp_path) as asking:
        answer = asking.post("/mark", json={"row": 3, "mark": "keep"})
        assert (answer.status_code, asking.get("/tray").json()["steps"]) == (507, 0)
        assert "cannot be written" in answer.json()["error"]
