"""Which way auto takes: by weights that are there, by what the images' neighbours say, by what the user gave."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

from moco.interop import downloads
from moco.interop.published import download_bytes, is_on_this_machine
from moco.pretraining import ways as module
from moco.pretraining.config import AutoConfig
from moco.pretraining.ways import (
    PREFERRED,
    Compared,
    Goal,
    Tried,
    Way,
    choose_tried,
    choose_way,
    find_beside,
    find_weights,
    list_ways,
    open_recipes,
    sizes_to_try,
    tabulate,
    tabulate_trials,
)


def compared(name: str, right: int, size: int = 64) -> Compared:
    """An encoder that has the first of 400 images right."""
    return Compared(name, size, torch.arange(400) < right)


RIVALS = [compared("random weights", 200), compared("raw pixels", 220, 16)]


def test_better_published_weights_are_taken_at_their_best_size() -> None:
    """Trained on, or as a teacher; the table marks them."""
    published = [compared("W", 300, 128), compared("W", 340, 224)]
    way = choose_way(["continued"], "W", "", published, RIVALS, size=None, given=False)
    assert (way.recipe, way.weights, way.image_size) == ("continued", "W", 224)
    assert choose_way(["taught"], "W", "", published, RIVALS, size=None, given=False).recipe == "taught"
    table = tabulate([*RIVALS, *published], way)
    assert [line.endswith("<- chosen") for line in table] == [False, False, False, False, True]
    assert "400 of your images" in table[0]
    assert "85.0%" in table[-1]


@pytest.mark.parametrize("right", [150, 220, 221])
def test_weights_that_do_not_suit_the_images_are_left(right: int) -> None:
    """Worse than raw pixels, or not clearly better; what the user gave is taken all the same, and that is said."""
    published = [compared("W", right, 128)]
    way = choose_way(["continued"], "W", "", published, RIVALS, size=None, given=False)
    assert (way.recipe, way.weights) == ("quick", None)
    assert "is not clearly better on your images than the baselines" in way.why
    given = choose_way(["continued"], "W", "", published, RIVALS, size=None, given=True)
    assert (given.recipe, given.weights) == ("continued", "W")
    assert "because you gave these weights" in given.why


def test_without_labels_the_rule_decides_and_says_so() -> None:
    """And without weights there is nothing to decide."""
    way = choose_way(["continued"], "W", "", [], [], size=128, given=False)
    assert (way.recipe, way.image_size) == ("continued", 128)
    assert "no labels" in way.why
    assert choose_way(["taught"], None, "there is nothing", [], [], size=None, given=False).why.endswith(
        "there is nothing"
    )
    assert tabulate([], way) == []


CONTINUED, SCRATCH, TAUGHT, REDUCED = (
    Way("continued", "W", 128, "the rule"), Way("quick", None, None, ""), Way("taught", "W", 128, ""),
    Way("reduced", "W", 128, ""),
)  # fmt: skip


@pytest.mark.parametrize(
    ("first", "goal", "parameters", "recipes"),
    [(CONTINUED, "accurate", 10**6, ["continued", "quick"]),
     (SCRATCH, "accurate", 10**6, ["quick", "continued"]),
     (TAUGHT, "small", 10**7, ["taught", "quick"]), (REDUCED, "small", 10**6, ["reduced", "taught", "quick"])],
)  # fmt: skip
def test_ways_that_are_open(first: Way, goal: Goal, parameters: int, recipes: list[str]) -> None:
    """The rule's first; those that begin with weights see images of the same size. Without weights there is one."""
    open_ones = open_recipes(goal, parameters, 128)
    found = list_ways(first, open_ones, "W", 128)
    assert [way.recipe for way in found] == recipes
    assert all((way.weights, way.image_size) == ("W", 128) for way in found if way.recipe != "quick")
    assert list_ways(SCRATCH, open_ones, None, None) == [SCRATCH]


def test_a_network_for_small_images_is_not_reduced() -> None:
    """Its features of the whole image are no better than its student's could be."""
    assert open_recipes("small", 10**6, 64) == open_recipes("small", 10**6, None) == ("taught", "quick")


@pytest.mark.parametrize(
    ("rights", "taken"),
    [((200, 204, 150), "continued"), ((200, 205, 150), "quick"), ((200, 250, 260), "taught"), ((0, 0, 0), "continued")],
)
def test_the_rule_gives_way_to_what_is_clearly_better(rights: tuple[int, int, int], taken: str) -> None:
    """5 images gained and none lost are more than two standard errors, sqrt(5) each; 4 are not."""
    tried = [
        Tried(way, compared(way.name, right), 30, 40.0)
        for way, right in zip((CONTINUED, SCRATCH, TAUGHT), rights, strict=True)
    ]
    kept = choose_tried(tried)
    assert kept.way.recipe == taken
    assert (
        f"after 30 trial steps it classifies {max(rights) / 4 if taken != 'continued' else rights[0] / 4:.1f}%"
        in kept.way.why
    )
    assert ("no other method is clearly better" in kept.way.why) == (taken == "continued")
    table = tabulate_trials(tried, kept)
    assert [line.endswith("<- chosen") for line in table[1:4]] == [one.way.recipe == taken for one in tried]
    assert table[-1] == "auto: continuing the chosen run from step 30; the other trials cost 80 s"


@pytest.mark.parametrize(
    ("rights", "taken"),
    [
        ((300, 255, 0), "continued"),
        ((300, 320, 0), "quick"),
        ((300, 288, 0), "continued"),
        ((300, 289, 0), "quick"),
        ((300, 100, 330), "taught"),
        ((400, 400, 400), "continued"),
    ],
)
def test_weights_as_they_are_against_short_trials(rights: tuple[int, int, int], taken: str) -> None:
    """Of 400 images 100 are wrong. Training leaves three quarters of these, and of those of a run from scratch 60%.

    A run from scratch has to be better by 2 points, 8 images.
    """
    tried = [
        Tried(way, compared(way.name, right), steps, 40.0 if steps else 0.0)
        for way, right, steps in zip((CONTINUED, SCRATCH, TAUGHT), rights, (0, 50, 50), strict=True)
    ]
    kept = choose_tried(tried)
    assert kept.way.recipe == taken
    assert ("before training it classifies" in kept.way.why) == (taken == "continued")
    lines = tabulate_trials(tried, kept)
    assert lines[1].removesuffix("  <- chosen").endswith("before training")
    assert lines[-1] == (
        "auto: the trials cost 80 s" if taken == "continued"
        else "auto: continuing the chosen run from step 50; the other trials cost 40 s"
    )  # fmt: skip


def test_a_run_too_short_to_gain_is_expected_to_gain_little() -> None:
    """Of 64 wrong images 30 of 200 steps take 0.25 * 0.15; from scratch 88 wrong ones become 53."""
    tried = [
        Tried(CONTINUED, compared("weights", 336), 0, 0.0, 30),
        Tried(SCRATCH, compared("scratch", 312), 76, 37.0, 304),
    ]
    assert tried[0].expected == pytest.approx(100 - 16 * (1 - 0.25 * 0.15))
    assert choose_tried(tried).way.recipe == "quick"
    assert choose_tried([dataclasses.replace(tried[0], length=200), tried[1]]).way.recipe == "continued"


@pytest.mark.parametrize(
    ("right", "steps", "length", "together", "taken", "end"),
    [
        (225, 71, 236, None, "continued", 75.3),
        (247, 62, 125, None, "continued", 75.3),
        (270, 10, 160, None, "quick", 88.3),
        (225, 71, 236, 276, "continued", 75.3),
        (225, 71, 236, 308, "quick", 79.01),
        (100, 40, 80, 308, "quick", 78.18),
        (225, 71, 236, 298, "continued", 75.3),
    ],
)
def test_a_trial_counts_by_its_share_of_the_run_and_by_what_it_adds_to_the_weights(
    right: int, steps: int, length: int, together: int | None, taken: str, end: float
) -> None:
    """300 photographs of hands, three minutes: published weights 74.8%, of whose error 20 steps leave 97.5%.

    A quarter of a run leaves 60% of its error, joined with the weights 90%, half a run the square root of that, and a
    sixteenth its square. The better of both counts.
    The first two runs ended at 66.0 and 63.3%, and joined at 80.0 and 80.7. A run from scratch has to gain 2 points.
    """
    joined = None if together is None else together / 4
    tried = [
        Tried(CONTINUED, compared("weights", 299), 0, 0.0, 20),
        Tried(SCRATCH, compared("scratch", right), steps, 16.0, length, joined),
    ]
    kept = choose_tried(tried)
    assert kept.way.recipe == taken
    assert kept.expected == pytest.approx(end, abs=0.2)
    assert (f"{(together or 0) / 4:.1f}% joined with the published weights (" in kept.way.why) == (
        taken == "quick" and together is not None
    )
    ending = "the better of it and the joined encoder" if taken == "quick" and together is not None else "it"
    assert kept.way.why.endswith(f"{ending} should end at {kept.expected:.0f}%")
    assert tabulate_trials(tried, kept)[2].endswith(
        "after {} steps, 16 s{}{}".format(
            steps, "" if together is None else f"; joined with the published weights {together / 4:.1f}%",
            "  <- chosen" if taken == "quick" else "",
        )
    )  # fmt: skip


def test_encoders_are_joined_with_the_largest_published_one() -> None:
    """As `moco join` takes it; nothing is joined with weights whose features were not kept, or that are not there."""
    features = torch.zeros(4, 2)
    small, large = (dataclasses.replace(compared("W", 300, size), features=features) for size in (128, 224))
    assert find_beside("W", [*RIVALS, small, large, compared("W", 300, 256)]) is large
    assert find_beside("W", RIVALS) is None
    assert find_beside(None, RIVALS) is None


@pytest.mark.parametrize(
    ("native", "side", "sizes"),
    [
        (224, 375, (128, 224)),
        (224, 100, (128, 224)),
        (224, 48, (128, 192)),
        (224, 32, (128,)),
        (224, 8, (96,)),
        (96, 400, (96,)),
    ],
)
def test_sizes_that_are_tried(native: int, side: int, sizes: tuple[int, ...]) -> None:
    """Not above the network's own, nor far above that of the images."""
    assert sizes_to_try(native, side) == sizes


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose caches are empty, and nothing can be downloaded."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    return tmp_path


def asked_for(download: Literal["ask", "yes", "no"]) -> AutoConfig:
    """Flags of auto."""
    return AutoConfig("d", Path("run"), download=download)


@pytest.mark.parametrize(
    ("download", "answer", "found"),
    [("no", True, False), ("yes", None, True), ("ask", None, False), ("ask", False, False), ("ask", True, True)],
)
def test_nothing_is_downloaded_unasked(
    empty: Path, download: Literal["ask", "yes", "no"], answer: bool | None, found: bool
) -> None:
    """By the flag, or by the answer of a person; the size is said first."""
    said = list[str]()

    def reply(question: str) -> bool:
        said.append(question)
        return bool(answer)

    ask: Callable[[str], bool] | None = None if answer is None else reply
    weights, why = find_weights(asked_for(download), 300, ask, said.append, labelled=False)
    assert weights == (PREFERRED[0] if found else None)
    assert "19 MB" in " ".join([*said, why])


def test_small_images_may_be_unlike_photographs(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without labels nothing is looked for; with them published weights are, for they can be compared."""
    weights, why = find_weights(asked_for("yes"), 32, None, print, labelled=False)
    assert weights is None
    assert "32 pixels" in why
    monkeypatch.setattr(module, "is_on_this_machine", lambda name: True)
    monkeypatch.setattr(module, "published_file", lambda name: Path(name))
    assert find_weights(asked_for("no"), 32, None, print, labelled=True)[0] == PREFERRED[0]
    assert find_weights(asked_for("no"), 33, None, print, labelled=False)[0] == PREFERRED[0]


def test_weights_in_a_cache_are_found(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch's, by the name of the file; of Hugging Face's, by what its library says."""
    assert not any(map(is_on_this_machine, PREFERRED))
    place = downloads.place_of_url("https://download.pytorch.org/models/resnet18-f37072fd.pth")
    place.parent.mkdir(parents=True)
    place.touch()
    told: list[str] = []
    assert find_weights(asked_for("no"), 300, None, told.append, labelled=False)[0] is None
    assert told[0].startswith(f"auto: leaves out torchvision:resnet18: {place} is damaged or another file")
    monkeypatch.setattr(downloads, "digest_file", lambda path, large: "f37072fd" + 56 * "0")
    assert find_weights(asked_for("no"), 300, None, print, labelled=False)[0] == "torchvision:resnet18"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, *_, **__: str(place))
    assert find_weights(asked_for("no"), 300, None, print, labelled=False)[0] == PREFERRED[0]
    assert module.QUICK_SIZE in sizes_to_try(224, 300)


def test_sizes_of_files() -> None:
    """As they are known: 18.8 MB and 46.8 MB."""
    assert download_bytes("timm:tf_efficientnet_lite0") == pytest.approx(18.8e6, rel=0.01)
    assert download_bytes("torchvision:resnet18") == pytest.approx(46.8e6, rel=0.01)
