"""The linear protocols: what they compute, what they leave alone, and what they refuse."""

import contextlib
import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from sklearn.linear_model import LogisticRegression
from torch import nn

from moco.cli import main
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.images import ArrayImages, Images
from moco.data.loader import ViewBatches
from moco.errors import BadInputError
from moco.evaluation import linear as module
from moco.evaluation.classifiers import first_weights
from moco.evaluation.config import LinearConfig
from moco.evaluation.features import Encoding, RandomViews, encode
from moco.evaluation.linear import (
    CROP_AND_FLIP,
    encode_random_views,
    evaluate_linear,
    run_fast_protocol,
    run_paper_protocol,
    suit_rate,
)
from moco.evaluation.preparation import prepare_image
from moco.evaluation.scores import score_logits
from moco.evaluation.session import Labelled, Subject, limit_batch_size, load_labelled, require_labels
from moco.interop.checkpoints import Weights

pytestmark = pytest.mark.usefixtures("few_digits")
HALVES = (0.5, 0.5, 0.5)
CPU = ["--device", "cpu", "--precision", "fp32", "--threads", "1"]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A small network with random weights."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=16))
    return Subject(Weights(encoder, HALVES, HALVES), Encoding(16, HALVES, HALVES, unit=False))


def digits(split: Any, first: int, count: int) -> ArrayImages:
    """Some digits, in memory."""
    images = load("digits")[split]
    assert isinstance(images, ArrayImages)
    assert images.labels is not None
    rows = slice(first, first + count)
    return ArrayImages(images.pixels[rows], images.labels[rows], images.classes)


def some(validation: Images | None = None) -> Labelled:
    """Images for an evaluation."""
    return Labelled(digits("train", 0, 200), digits("test", 0, 100), validation)


CONFIG = LinearConfig("run", "digits", epochs=4, penalties=(0.1, 0.01, 0.001), batch_size=32, lr=0.3)


def test_paper_equals_a_plain_loop(subject: Subject) -> None:
    """By torch's layer, optimiser and schedule over the same views; the rate falls after epochs 2.4 and 3.2."""
    images = some()
    backbone, fc = subject.encoder.backbone.eval(), nn.Linear(128, 10)
    with torch.no_grad():
        fc.weight.copy_(first_weights(128, 10, 0).T)
        fc.bias.zero_()
    optimizer = torch.optim.SGD(fc.parameters(), 0.3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [15, 20], gamma=0.1)  # 0.6 and 0.8 of 24, rounded up
    batches = ViewBatches(images.train, CROP_AND_FLIP, 16, HALVES, HALVES, 32, key_views=False)
    assert images.train.labels is not None
    for step in range(4 * 6):
        x, _, index, _ = batches[step]
        with torch.no_grad():
            h = backbone(x)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(fc(h), torch.from_numpy(images.train.labels)[index]))
        optimizer.step()
        schedule.step()
    assert images.test.labels is not None
    expected = score_logits(fc(encode(subject.encoder, images.test, subject.how)), images.test.labels)
    found, details = run_paper_protocol(subject, images, CONFIG, "")
    assert (found.predicted != expected.predicted).sum() <= 1  # logits differ by rounding
    assert found.top1 == pytest.approx(expected.top1, abs=1)
    assert details["lr"] == 0.3


def test_views_of_labelled_images_are_crops_and_flips() -> None:
    """Colours stay: every view of a picture of one colour is that colour."""
    pixels = torch.tensor([40, 90, 200], dtype=torch.uint8).view(1, 3, 1, 1).expand(8, 3, 20, 20)
    x = ViewBatches(ArrayImages(pixels), CROP_AND_FLIP, 16, (0.0,) * 3, (1.0,) * 3, 8, key_views=False)[0].x_q
    assert torch.allclose(x, (pixels[:, :, :16, :16].float() / 255), atol=1e-5)


def test_encoded_views_are_the_centre_and_crops_of_their_own(subject: Subject) -> None:
    """Random ones differ from each other and are the same again, in batches of any size."""
    images, encoder, how = digits("train", 0, 30), subject.encoder, subject.how
    found = encode_random_views(encoder, images, how, 2, seed=5)
    assert found.shape == (3, 30, 128)
    assert torch.equal(found[0], encode(encoder, images, how))
    assert torch.equal(found[2], encode(encoder, images, how, RandomViews(CROP_AND_FLIP, 5, 1)))
    assert not torch.allclose(found[1], found[2], atol=0.1)
    rest = dataclasses.replace(how, batch_size=7)
    assert torch.allclose(encode(encoder, images, rest, RandomViews(CROP_AND_FLIP, 5, 1)), found[2], atol=1e-5)
    assert torch.equal(encode_random_views(encoder, images, how, 0, seed=5), found[:1])


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_are_not_held_give_the_same_views(subject: Subject, tmp_path: Path, workers: int) -> None:
    """One by one through the decoder's way, by this process or others: 1e-5 of the features' size."""
    images = digits("train", 0, 20)
    for i in range(len(images)):
        PillowImage.fromarray(images[i].permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02}.png")
    files = load(str(tmp_path))["train"]
    assert not files.in_memory
    how = dataclasses.replace(subject.how, batch_size=8, workers=workers)
    for views in (None, RandomViews(CROP_AND_FLIP, 0, 0)):
        expected = encode(subject.encoder, images, how, views)
        assert torch.allclose(encode(subject.encoder, files, how, views), expected, atol=1e-4)


# --- the fast protocol ----------------------------------------------------------------------------------------------


def test_fast_equals_scikit_learn_on_the_same_features(subject: Subject) -> None:
    """The penalty of the lowest held-out loss, the same predictions by scikit-learn's solver with that penalty."""
    images = some()
    found, details = run_fast_protocol(subject, images, dataclasses.replace(CONFIG, parts=False), "")
    assert details["grid"] == 1
    assert [tried["penalty"] for tried in details["path"]] == [0.1, 0.01, 0.001][: len(details["path"])]
    assert details["penalty"] == min(details["path"], key=lambda tried: tried["loss"])["penalty"]
    train, test = (encode(subject.encoder, part, subject.how).double() for part in (images.train, images.test))
    varies = train.std(0) > 0
    train, test = train[:, varies], test[:, varies]
    deviation = train.std(0, correction=0)
    scale = (deviation * deviation.mean()).sqrt()
    oracle = LogisticRegression(C=1 / (200 * details["penalty"]), tol=1e-8, max_iter=10_000)
    oracle.fit(((train - train.mean(0)) / scale).numpy(), np.asarray(images.train.labels))
    expected = oracle.predict(((test - train.mean(0)) / scale).numpy())
    assert (found.predicted != expected).sum() <= 1  # logits differ by rounding


def test_parts_of_images_equal_scikit_learn(subject: Subject) -> None:
    """What is read is chosen by the held-out loss: here averages over the quarters of the last map."""
    images = some()
    found, details = run_fast_protocol(subject, images, CONFIG, "")
    whole = run_fast_protocol(subject, images, dataclasses.replace(CONFIG, parts=False), "")[1]
    assert details["grid"] == 2
    assert min(tried["loss"] for tried in details["path"]) < min(tried["loss"] for tried in whole["path"])

    @torch.no_grad()
    def average(part: Images) -> np.ndarray[Any, np.dtype[np.float64]]:
        maps: list[Any] = []
        encoder = copy.deepcopy(subject.encoder).double().eval()
        encoder.backbone.get_submodule("avgpool").register_forward_pre_hook(lambda _, x: maps.append(x[0].numpy()))
        for row in range(len(part)):
            encoder.backbone((prepare_image(part[row], 16).double() - 0.5)[None] / 0.5)
        z = np.concatenate(maps)
        assert z.shape[2:] == (2, 2)
        return z.reshape(len(part), -1)

    train, test = average(images.train), average(images.test)
    varies = train.std(0) > 0
    train, test = train[:, varies], test[:, varies]
    scale = np.sqrt(train.std(0) * train.std(0).mean())
    oracle = LogisticRegression(C=1 / (200 * details["penalty"]), tol=1e-8, max_iter=10_000)
    oracle.fit((train - train.mean(0)) / scale, np.asarray(images.train.labels))
    expected = oracle.predict((test - train.mean(0)) / scale)
    assert (found.predicted != expected).sum() <= 1  # logits differ by rounding


def test_the_papers_protocol_is_compared_on_whole_images(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own classifier reads these, and so do those of its baselines; --no-parts lets the fast one do so."""
    run = ["--weights", str(shutil.copytree(tiny_run, tmp_path / "run")), "--penalties", "0.1"]
    parts = result_of(capsys, run)
    assert (parts["grid"], parts["baselines"]["random"]["grid"]) == (2, 2)
    assert result_of(capsys, [*run, "--no-parts", "--no-baseline"])["grid"] == 1
    result_of(capsys, [*run, "--no-baseline"])
    paper = result_of(capsys, [*run, "--protocol", "paper", "--epochs", "1", "--lr", "0.3"])
    assert paper["agreement"]["grid"] == 2
    assert paper["baselines"]["random"]["grid"] == 1


def test_a_validation_split_chooses_where_there_is_one(subject: Subject) -> None:
    """And then nothing of train is held out: choosing by the test images gives their figures."""
    found, details = run_fast_protocol(subject, some(validation=digits("test", 0, 100)), CONFIG, "")
    chosen = next(tried for tried in details["path"] if tried["penalty"] == details["penalty"])
    assert chosen["held_out"] == pytest.approx(found.top1, abs=1.1)  # it was fitted from another start


def test_the_choice_does_not_look_at_the_test_images(subject: Subject) -> None:
    """With wrong test labels all is the same but the figure."""
    images = some()
    assert images.test.labels is not None
    wrong = ArrayImages(digits("test", 0, 100).pixels, (images.test.labels + 3) % 10, images.classes)
    right, other = (
        run_fast_protocol(subject, dataclasses.replace(images, test=test), CONFIG, "") for test in (images.test, wrong)
    )
    assert right[1] == other[1]
    assert right[0].top1 > other[0].top1


def test_crops_are_further_images(subject: Subject) -> None:
    """With them the classifier is another one, and held-out images are still looked at whole."""
    alone, more = (
        run_fast_protocol(subject, some(), dataclasses.replace(CONFIG, views=views), "")[1] for views in (0, 1)
    )
    assert alone["path"] != more["path"]
    assert all(tried["held_out"] * 2 % 1 == 0 for tried in more["path"])  # shares of 200 images


# --- the rate of the papers' protocol -------------------------------------------------------------------------------


def test_the_suiting_rate_is_half_of_what_is_stable() -> None:
    """By the norm of the Hessian at weights of 0, from autograd; the features point in similar directions."""
    h = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)).double() + 2
    labels = torch.arange(50) % 4

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(h @ weight, labels)

    zeros = torch.zeros(6, 4, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(loss, zeros)  # type: ignore[no-untyped-call]
    assert isinstance(hessian, torch.Tensor)
    stable = 2 * 1.9 / float(torch.linalg.eigvalsh(hessian.view(24, 24))[-1])
    found = suit_rate(float(h.square().sum(1).mean()), 4)
    assert 0.4 * stable < found < 0.6 * stable


# --- the backbone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["fast", "paper"])
def test_the_backbone_stays_as_it_is(subject: Subject, protocol: Any) -> None:
    """Bit for bit, mode included."""
    subject.encoder.train()
    before = {name: value.clone() for name, value in subject.encoder.state_dict().items()}
    evaluate_linear(subject, some(), dataclasses.replace(CONFIG, protocol=protocol))
    assert all(torch.equal(value, before[name]) for name, value in subject.encoder.state_dict().items())
    assert all(part.training for part in subject.encoder.modules())


def test_a_changed_backbone_voids_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting eval mode moves the running statistics: an error, not a number."""
    encoder = Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=16)).train()
    own = Subject(Weights(encoder, HALVES, HALVES), Encoding(16, HALVES, HALVES, unit=False))
    monkeypatch.setattr(module, "use_evaluation_mode", lambda backbone: contextlib.nullcontext())
    with pytest.raises(RuntimeError, match="backbone was changed"):
        evaluate_linear(own, some(), dataclasses.replace(CONFIG, protocol="paper", epochs=1))


# --- the command ----------------------------------------------------------------------------------------------------


def result_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, Any]:
    """The JSON object that ends a command's output."""
    assert main(["linear", *arguments, "--data", "digits", "--json", *CPU]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(result, dict)
    return result


def test_both_protocols_and_their_difference(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each leaves its file in the run; the second tells the paired interval on the same test images."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    quick = result_of(capsys, ["--weights", str(run), "--supervised-epochs", "1", "--penalties", "0.1", "0.01"])
    assert (quick["protocol"], quick["test"], quick["train"]) == ("fast", 120, 480)
    assert quick["penalty"] in [tried["penalty"] for tried in quick["path"]]
    assert 50 < quick["top1"] <= quick["top5"] <= 100
    assert quick["seconds"] > 0
    random = quick["baselines"]["random"]
    assert random["top1"] > 50  # chance is 10
    assert random["difference"] == pytest.approx(quick["top1"] - random["top1"], abs=2e-3)
    assert random["low"] <= random["difference"] <= random["high"]
    assert quick["baselines"]["supervised"]["epochs"] == 1
    assert {own["protocol"] for name, own in quick["baselines"].items() if name != "supervised"} == {"fast"}
    assert "agreement" not in quick
    slow = result_of(
        capsys, ["--weights", str(run), "--protocol", "paper", "--epochs", "2", "--lr", "0.3", "--no-baseline"]
    )
    assert (slow["protocol"], slow["lr"], slow["baselines"]) == ("paper", 0.3, {})
    stored = {name: json.loads((run / "evaluations" / f"linear-{name}.json").read_text()) for name in ("fast", "paper")}
    for name, result in (("fast", quick), ("paper", slow)):
        assert {key: stored[name][key] for key in result} == result
        assert np.array(stored[name]["confusion"]).sum() == 120
    truth = load("digits")["test"].labels
    hits = {name: np.array(stored[name]["predicted"]) == truth for name in stored}
    difference = 100 * (hits["paper"].mean() - hits["fast"].mean())
    assert slow["agreement"]["with"] == "fast"
    assert slow["agreement"]["difference"] == pytest.approx(difference, abs=1e-3)
    assert slow["agreement"]["low"] < difference < slow["agreement"]["high"]
    random = quick["baselines"]["random"]
    assert random["difference"] == pytest.approx(quick["top1"] - random["top1"], abs=2e-3)
    assert random["low"] < random["difference"] < random["high"]


def test_other_weights_leave_no_file(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random ones have no place for it, and are compared with raw pixels only."""
    before = sorted(tiny_run.rglob("*"))
    found = result_of(capsys, ["--weights", "random", "--like", str(tiny_run), "--penalties", "0.1"])
    assert found["baselines"].keys() == {"pixels"}
    assert sorted(tiny_run.rglob("*")) == before


def test_a_damaged_earlier_result_is_passed_over(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to compare with, and the new one is written."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "evaluations").mkdir(exist_ok=True)
    (run / "evaluations" / "linear-paper.json").write_text('{"backbone": ')
    found = result_of(capsys, ["--weights", str(run), "--penalties", "0.1", "--no-baseline"])
    assert "agreement" not in found
    assert json.loads((run / "evaluations" / "linear-fast.json").read_text())["top1"] == found["top1"]


def folder_of(root: Path, classes: dict[str, int]) -> None:
    """Class folders with some pictures each; a flat folder for the class ''."""
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            PillowImage.fromarray(pixels).save(root / name / f"{number}.png")


@pytest.mark.parametrize("command", ["linear", "knn", "lowshot", "finetune"])
@pytest.mark.parametrize("case", ["no labels", "one class", "other classes"])
def test_labels_that_do_not_do(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, case: str
) -> None:
    """Every evaluation with labels: exit code 2 and one line."""
    data = tmp_path / "data"
    if case == "no labels":
        folder_of(data, {"": 12})
    elif case == "one class":
        folder_of(data, {"cat": 12})
    else:
        folder_of(data / "train", {"cat": 12, "dog": 12})
        folder_of(data / "test", {"cat": 4, "eel": 4})
    assert main([command, "--weights", str(tiny_run), "--data", str(data), *CPU]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert ("'eel'" if case == "other classes" else "needs labels: class folders, at least two") in message


def test_sets_of_other_classes_are_refused() -> None:
    """Also where no folder tells."""
    train, test = digits("train", 0, 20), digits("test", 0, 20)
    with pytest.raises(BadInputError, match="'9' differs"):
        require_labels(train, dataclasses.replace(test, classes=(*test.classes[:9], "nine")))
    with pytest.raises(BadInputError, match="not of the same classes"):
        require_labels(train, dataclasses.replace(test, classes=test.classes[::-1]))


def test_a_lone_split_is_divided(tmp_path: Path) -> None:
    """A tenth is for the figure, and none of it is trained on."""
    folder_of(tmp_path, {"cat": 20, "dog": 20})
    images = load_labelled(str(tmp_path))
    assert (len(images.train), len(images.test), images.validation) == (36, 4, None)
    names = [{part.name(row) for row in range(len(part))} for part in (images.train, images.test)]
    assert not names[0] & names[1]


def test_few_images_make_a_smaller_batch() -> None:
    """Than asked for."""
    assert (limit_batch_size(256, 1000), limit_batch_size(256, 10)) == (256, 10)
