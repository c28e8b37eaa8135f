"""The page: sound HTML, the run folder's figures, names that stay text, nothing from outside."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moco.report.markup import NOTHING, escape_whole, show
from moco.report.page import FIRST_NEIGHBOURS, page
from moco.report.runs import Run, distinct_names, read_run
from tests.report.folders import CHANCE, Parsed, gallery, metrics, webp, write_run

HOSTILE = [
    '<img src=x onerror="alert(1)">',
    "</script><script>alert(1)</script>",
    "</title></style><svg onload=alert(1)>",
    "<!-- --><![CDATA[",
    "' onmouseover='alert(1)",
    '" onfocus="alert(1)" autofocus="',
    "line\nbreak\u2028and\u2029separators\x00\x1b[31m",
    "right\u202eto left\u200b",
    "not UTF-8 \udcff\udcfe",
    "&lt;b&gt; &amp; {{7*7}} ${7*7} \\u003c",
    "javascript:alert(1)",
    "🦊 " + "long " * 200,
]
TAGS = {
    "html", "head", "meta", "link", "title", "style", "body", "a", "header", "h1", "p", "nav", "ul", "li", "main",
    "section", "h2", "div", "h3", "dl", "dt", "dd", "small", "table", "caption", "thead", "tbody", "tr", "th", "td",
    "strong", "details", "summary", "figure", "svg", "desc", "text", "line", "path", "circle", "img", "span",
    "canvas", "output", "button", "script", "footer", "code",
}  # fmt: skip
"""All that the page is made of."""
ATTRIBUTES = {
    "charset", "http-equiv", "content", "name", "rel", "href", "class", "id", "lang", "aria-label",
    "aria-labelledby", "aria-hidden", "aria-pressed", "role", "tabindex", "scope", "viewbox", "x", "y", "x1", "x2",
    "y1", "y2", "cx", "cy", "r", "d", "text-anchor", "src", "alt", "title", "width", "height", "hidden",
    "type", "data-label", "visibility", "stroke",
}  # fmt: skip


def parsed(*runs: Run) -> Parsed:
    """The page of some runs, taken apart; its HTML must be sound."""
    found = Parsed(page(runs, "Made today."))
    assert found.trouble == []
    return found


def whole(folder: Path, **more: Any) -> Run:
    """A run with everything that a page can show."""
    evaluations = {
        "gallery": gallery(["cats/1.png", "dogs/2.png"], ["cat", "dog"]),
        "knn": {
            "top1": 53.99, "top5": 94.73, "data": "cifar10", "queries": 10000, "k": 50,
            "measured_on": "the test split, held out from training",
            "baselines": {"random": {"top1": 31.19}, "pixels": {"top1": 35.5}, "timm:lite": {"top1": 78.25}},
        },
        "linear-fast": {
            "top1": 61.25, "top5": 96.5, "protocol": "fast", "lr": 30.0,
            "baselines": {"random": {"top1": 40.5}, "supervised": {"top1": 70.75}},
        },
        "lowshot-1pct": {
            "labels": "1%", "draws": 3, "images": 500, "linear": {"mean": 41.5, "deviation": 0.75},
            "finetune": {"mean": 44.25, "deviation": 1.5},
            "baselines": {"random": {"finetune": {"mean": 29.5, "deviation": 0.5}}},
        },
        "segmentation": {"miou": 0.625},
    }  # fmt: skip
    return read_run(write_run(folder, evaluations=evaluations, **more))


@pytest.fixture
def full(tmp_path: Path) -> Run:
    """One such run."""
    return whole(tmp_path / "run")


# --- structure ------------------------------------------------------------------------------------------------------


def test_structure(full: Run) -> None:
    """One heading of the first order, all parts there and linked, names for all that is no text."""
    found = parsed(full)
    parts = [attributes["id"] for attributes in found.all("section") if "id" in attributes]
    assert parts == [
        "verdict", "setup", "training", "evaluations", "views", "neighbours", "map", "confusion", "filters",
    ]  # fmt: skip
    links = [attributes["href"] for attributes in found.all("a")]
    assert links == ["#verdict", *(f"#{part}" for part in parts)]
    assert len(found.all("h1")) == 1
    identifiers = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert all("alt" in attributes for attributes in found.all("img"))
    for attributes in found.all("svg"):
        referred = (attributes.get("aria-labelledby") or "").split()
        named = (
            attributes.get("aria-label")
            or attributes.get("aria-hidden")
            or (referred and set(referred) <= set(identifiers))
        )
        assert named, attributes
    assert all(attributes.get("aria-label") for tag, attributes in found.elements if attributes.get("tabindex") == "0")
    headings = found.all("th")
    assert headings
    assert all(attributes.get("scope") in ("row", "col") for attributes in headings)
    assert found.all("html") == [{"lang": "en"}]
    assert any(attributes.get("name") == "viewport" for attributes in found.all("meta"))


def test_every_element_is_one_of_ours(full: Run) -> None:
    """The lists that the tests with hostile names rely on are complete, and hold nothing that runs."""
    found = parsed(full)
    assert {tag for tag, _ in found.elements} <= TAGS
    assert {name for _, attributes in found.elements for name in attributes} <= ATTRIBUTES
    assert not any(name.startswith("on") or name == "style" for name in ATTRIBUTES)


def test_nothing_comes_from_outside(full: Run) -> None:
    """No address in the whole page; only data and places within it are referred to; the policy forbids the rest."""
    content = page([full], "Made today.")
    assert not re.search(r"https?:|ftp:|wss?:|@import|url\(|fetch\(|XMLHttpRequest|import\(", content)
    found = Parsed(content)
    for tag, attributes in found.elements:
        assert "srcset" not in attributes
        for name in ("src", "href"):
            if name in attributes:
                assert re.match(r"#|data:image/webp;base64,|data:,$", attributes[name] or ""), (tag, attributes[name])
    (policy,) = (a["content"] or "" for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_the_policy_names_the_script_and_the_style(full: Run) -> None:
    """By their SHA-256; data stands in elements that are not executed."""
    found = parsed(full)
    (policy,) = (a["content"] or "" for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    executed = [text for attributes, text in found.scripts if attributes.get("type") != "application/json"]
    assert len(executed) == 1
    for kind, text in (("script-src", executed[0]), ("style-src", found.style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_run_folder(full: Run) -> None:
    """Every figure of the monitor, the last loss, and every accuracy with its baselines."""
    found = parsed(full)
    rows = found.rows()
    for time, value in (("0", "20.00"), ("0.4", "31.50"), ("0.8", "47.25")):  # minutes: 0, 25 s, 50 s
        assert [full.name, time, value] in rows
    assert [full.name, "100", f"{CHANCE / 2:.3f}"] in rows
    assert [full.name, "20", "0.06000"] in rows
    by_name = {row[0]: row[1:] for row in rows}
    none = [NOTHING] * 4
    conditions = "cifar10, 10\u202f000 queries of the test split, held out from training, k 50"
    assert by_name["kNN"] == ["53.99%", "94.73%", "31.19%", "35.50%", "78.25%", NOTHING, conditions]
    assert by_name["linear, fast protocol"][:6] == ["61.25%", "96.50%", "40.50%", NOTHING, NOTHING, "70.75%"]
    assert by_name["1% of the labels, linear"][:6] == ["41.50 ± 0.75%", NOTHING, *none]
    assert by_name["1% of the labels, fine-tuned"][:6] == ["44.25 ± 1.50%", NOTHING, *none[1:], "29.50 ± 0.50%"]
    assert by_name["segmentation"][1:] == ["miou", "0.625"]
    assert f"chance: log(K+1) = {CHANCE:.2f}" in found.text


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_text(tmp_path: Path, name: str) -> None:
    """As file, class, data, run, evaluation, baseline, setting: no other element, no other attribute, same scripts."""
    other = gallery(["b"], ["x", "y"])
    plain = parsed(read_run(write_run(tmp_path / "plain", evaluations={"gallery": other})))
    stored = {"gallery": gallery([name], [name, "other"])}
    run = read_run(write_run(tmp_path / "run", data=name, evaluations=stored))
    baselines = {name: {"top1": 1.0}}
    evaluations: dict[str, dict[str, Any]] = {
        "knn": {"top1": 2.0, "data": name, "baselines": baselines},
        name: {name: 3.0},
    }
    hostile = Run(
        name, {**run.config, name: name, "arch": name}, {**run.status, "health": name}, {"processor": name},
        run.metrics, evaluations, run.gallery, (name,),
    )  # fmt: skip
    content = page([hostile], name)
    content.encode("utf-8")  # no lone surrogates
    found = Parsed(content)
    assert found.trouble == []
    assert {tag for tag, _ in found.elements} <= TAGS
    assert {key for _, attributes in found.elements for key in attributes} <= ATTRIBUTES
    assert len(found.scripts) == len(plain.scripts)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u2028\u2029\u202e\u200b]", content)
    (data,) = (json.loads(text) for attributes, text in found.scripts if attributes.get("type") == "application/json")
    if name.isprintable() and len(name) < 160:
        assert data["names"] == [name] * 12
        assert data["classes"] == [name, "other"]
        assert name in found.text


# --- runs of all kinds ----------------------------------------------------------------------------------------------


def test_several_runs(tmp_path: Path) -> None:
    """One column for each, one curve for each, and what tells their settings apart."""
    runs = [
        whole(tmp_path / "a" / "run", seed=1),
        whole(tmp_path / "b" / "run", seed=2, lines=metrics(knn=(20.0, 25.0))),
        read_run(write_run(tmp_path / "third", seed=3, key_momentum=0.5, recipe="cifar10", queue_size=127)),
    ]
    found = parsed(*distinct_names(runs))
    names = ["run (1)", "run (2)", "third"]
    assert found.tables[0][0] == ["run", *names]
    listed = {row[0]: row[1:] for row in found.tables[1][1:]}
    assert listed["--seed"][:3] == ["1", "2", "3"]
    assert listed["--key-momentum"] == ["0.99", "0.99", "0.5", "0.99 (cifar10)"]
    accuracies = [row[:3] for row in found.rows() if row[0] == "kNN"]
    assert accuracies == [["kNN", name, "53.99%"] for name in names[:2]]
    curves = [a["class"] for a in found.all("path") if (a.get("class") or "").startswith("curve")]
    assert {"curve s0", "curve s1", "curve s2"} <= set(curves)
    assert [row[2] for row in found.rows() if row[0] == "run (2)" and row[2] == "25.00"] == ["25.00"]


def test_a_run_without_labels(tmp_path: Path) -> None:
    """Alignment and uniformity instead of kNN; a map without classes; neither marks nor confusions."""
    lines = [line for line in metrics(400) if "knn_top1" not in line]
    lines += [{"step": 100, "alignment": 0.25, "uniformity": -2.5, "time": 50.0}]
    evaluations = {"gallery": gallery(["1.png"], None)}
    run = read_run(write_run(tmp_path / "run", lines=lines, evaluations=evaluations, max_steps=400))
    found = parsed(run)
    assert ["run", "100", "0.250"] in found.rows()
    assert ["run", "100", "\u22122.500"] in found.rows()
    assert "what that is worth for classes was not measured" in found.text
    assert "✓" not in found.text
    assert "confusion" not in {attributes.get("id") for attributes in found.all("section")}
    assert found.all("button") == []
    assert "map" in {attributes.get("id") for attributes in found.all("section")}


@pytest.mark.parametrize(
    ("status", "messages"),
    [
        (
            {"state": "diverged", "step": 106, "exit_code": 3},
            ["It diverged", "At step 106", "smaller --lr (it was 0.06)"],
        ),
        ({"state": "running", "step": 40}, ["It had not finished: step 106 of 400 (26%)"]),
        ({"state": "stopped", "step": 40}, ["It was stopped: step 106 of 400"]),
        ({}, ["It diverged"]),  # so says the log
        ({"state": "<b>"}, ["It had not begun"]),
    ],
    ids=str,
)
def test_a_run_that_did_not_end_well(tmp_path: Path, status: dict[str, Any], messages: list[str]) -> None:
    """The headline says so; the curves are there as far as they go."""
    last = {"step": 105, "loss": None, "lr": 0.06, "time": 55.0}, {"event": "diverged", "step": 106, "time": 56}
    lines = [*metrics(), *last]
    found = parsed(read_run(write_run(tmp_path / "run", status=status, max_steps=400, lines=lines)))
    for part in messages:
        assert part in found.text
    assert ["run", "105", "not a number"] in found.rows()
    assert "training" in {attributes.get("id") for attributes in found.all("section")}


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    """With a config and nothing else there is a page that says so."""
    folder = write_run(tmp_path / "run", lines=[], status={})
    (folder / "metrics.jsonl").unlink()
    (folder / "status.json").unlink()
    assert "no lines of metrics yet" in parsed(read_run(folder)).text


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**20) | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_foreign_content_never_breaks_the_page(data: st.DataObject) -> None:
    """Whatever JSON stands where something of ours is expected, the page is sound HTML."""
    stored: dict[str, Any] = gallery(["a"], ["x", "y"])
    places = [(stored, key) for key in stored] + [(stored["map"], key) for key in stored["map"]]
    places += [(stored["views"], key) for key in stored["views"]] + [(stored["neighbours"][0], "found")]
    for place, key in data.draw(st.lists(st.sampled_from(places), max_size=3, unique_by=lambda pair: pair[1])):
        place[key] = data.draw(anything)
    knn, status = {"top1": data.draw(anything), "baselines": data.draw(anything)}, {"result": data.draw(anything)}
    line = {"step": data.draw(anything), "loss": data.draw(anything), "chance_loss": data.draw(anything), "time": 1}
    config = {name: data.draw(anything) for name in ("arch", "max_steps", "batch_size", "mix")}
    run = Run("run", config, status, {"cores": data.draw(anything)}, [*metrics(), line], {"knn": knn}, stored)
    assert Parsed(page([run], "")).trouble == []


# --- size -----------------------------------------------------------------------------------------------------------


def test_ten_thousand_images_take_little_beside_their_thumbnails(tmp_path: Path) -> None:
    """10,000 points with names and classes: under 2 MB, so that 10 MB leave 8 for the thumbnails."""
    names = [f"automobile/some_photograph_{i:05}.jpeg" for i in range(10_000)]
    stored = gallery(names, [f"class {i}" for i in range(10)], count=10_000)
    stored["map"]["sprite"] = webp()
    run = read_run(write_run(tmp_path / "run", lines=metrics(20_000, 20), evaluations={"gallery": stored}))
    content = page([run], "")
    assert len(content.encode()) < 2_000_000
    assert content.count("automobile/some_photograph_09999.jpeg") == 1


def test_the_first_screen_has_the_loss_and_some_neighbours(tmp_path: Path) -> None:
    """Beside the verdict of a single run; several runs are compared below, in charts that they share."""
    stored = {"gallery": gallery(["cats/1.png", "dogs/2.png"], ["cat", "dog"])}
    folder = write_run(tmp_path / "run", lines=metrics(400), evaluations=stored)
    alone = page([read_run(folder)], "Made today.")
    verdict = alone.partition('id="verdict"')[2].partition("</section>")[0]
    assert verdict.count("<svg") == 1
    assert 1 <= verdict.count('class="tile query"') <= FIRST_NEIGHBOURS[0]
    both = page(distinct_names([read_run(folder), read_run(folder)]), "Made today.")
    assert "<svg" not in both.partition('id="verdict"')[2].partition("</section>")[0]


def test_a_sentence_keeps_the_spaces_of_its_numbers() -> None:
    """Else a line may break in the middle of 1 550; only names are cut."""
    assert escape_whole(f"of {show(1550, 0)} <images>") == "of 1\u202f550 &lt;images&gt;"
