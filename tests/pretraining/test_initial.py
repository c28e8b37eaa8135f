"""What a run takes from --init-weights: the network and its images, unless the flags say otherwise."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import timm
import torch
from safetensors.torch import save_file

from moco.cli import main, parse
from moco.core.encoder import Encoder, encoder_tensors
from moco.data.catalog import load
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import with_weights
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_encoder, resolve_config
from moco.pretraining.recipes import QUICK, RECIPES, recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from moco.runtime.configfile import from_json

SMALL: dict[str, Any] = {
    "image_size": 32, "batch_size": 16, "bn_groups": 4, "max_steps": 2, "knn_every": 0, "checkpoint_every": 0,
    "log_every": 1, "precision": "fp32", "device": "cpu", "threads": 1, "workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of timm whose images have a mean and deviation of 0.5, in a file."""
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet_gn").state_dict(), path)
    return f"timm:test_efficientnet_gn@{path}"


def settings(out: Path, weights: str, **values: Any) -> PretrainConfig:
    """A run of two steps on the digits by `quick`."""
    return recipe("quick", data="digits", out=out, init_weights=weights, **{**SMALL, **values})


@pytest.mark.parametrize(
    ("size", "view"), [(224, 128), (192, 112), (160, 96), (128, 80), (96, 48), (64, 32), (32, 16), (24, 16), (8, 8)]
)
def test_small_views_are_near_four_sevenths_of_whole_images(size: int, view: int) -> None:
    """Multiples of 16 as far as there are any; a size that is given stays."""
    config = recipe("v2", data="digits", out=Path("run"), arch="resnet18-w4", image_size=size, small_views=True)
    assert with_weights(config).view_size == view
    assert with_weights(dataclasses.replace(config, view_size=40)).view_size == 40
    assert with_weights(dataclasses.replace(config, small_views=False)).view_size is None


@pytest.mark.parametrize(("size", "view"), [(None, 96), (224, 96), (128, 96), (64, 64)])
def test_small_views_suit_the_size_of_the_weights(tmp_path: Path, lite: str, size: int | None, view: int) -> None:
    """Theirs is 160: whole images of another size change nothing, but where they are smaller than the views."""
    given = {} if size is None else {"image_size": size}
    config = with_weights(recipe("continued", data="digits", out=tmp_path, init_weights=lite, **given))
    assert (config.image_size, config.view_size) == (size or 160, view)


@pytest.mark.parametrize(("arch", "view"), [("timm:vit_tiny_patch16_224", 128), ("timm:vit_small_patch14_dinov2", 126)])
def test_small_views_are_whole_patches(arch: str, view: int) -> None:
    """Of 16 pixels, or of 14 as DINOv2's."""
    given = {"arch": arch, "image_size": 224, "head": "linear"}
    assert with_weights(recipe("v2", data="digits", out=Path("run"), **given, small_views=True)).view_size == view


def test_networks_of_one_size_have_no_small_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their views have the size of whole images."""

    def refuse(_: Encoder, size: int, name: str) -> None:
        raise BadInputError(f"{name} {size}")

    monkeypatch.setattr(Encoder, "require_size", refuse)
    config = recipe("v2", data="digits", out=Path("run"), arch="resnet18-w4", image_size=160, small_views=True)
    assert with_weights(config) == config


def test_the_network_and_its_images_are_the_weights_own(tmp_path: Path, lite: str) -> None:
    """In place of the recipe's; everything else stays the recipe's."""
    left_open = recipe("quick", data="digits", out=tmp_path, init_weights=lite)
    config = with_weights(left_open)
    assert (config.arch, config.stem, config.image_size) == ("timm:test_efficientnet_gn", "imagenet", 160)
    assert config.mean == config.std == (0.5, 0.5, 0.5)
    assert resolve_config(left_open, load("digits")["train"]).view_size == 160
    kept = {"dictionary", "augment", "batch_size", "base_lr", "head", "temperature"}
    assert {name: getattr(config, name) for name in kept & QUICK.keys()} == {n: QUICK[n] for n in kept & QUICK.keys()}
    assert with_weights(config) == config


@pytest.mark.parametrize(
    "given",
    [{"image_size": 64}, {"mean": (0.1, 0.2, 0.3)}, {"std": (1.0, 1.0, 1.0)}, {"image_size": 64, "view_size": 32}],
)
def test_what_is_given_stays(tmp_path: Path, lite: str, given: dict[str, Any]) -> None:
    """Each alone."""
    config = with_weights(recipe("quick", data="digits", out=tmp_path, init_weights=lite, **given))
    expected = {"arch": "timm:test_efficientnet_gn", "image_size": 160, "mean": (0.5,) * 3, "std": (0.5,) * 3, **given}
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_command_line_leaves_open_what_is_not_given(lite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the flag is written; without it a recipe is as it was."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    flags = ["pretrain", "quick", "--data", "digits", "--out", "run"]
    for more in (["--init-weights", lite], [f"--init-weights={lite}"], ["--init_weights", lite]):
        config, _ = parse([*flags, *more, "--mean", "0.1", "0.1", "0.1"])
        assert (config.arch, config.stem, config.image_size, config.view_size) == (None,) * 4
        assert (config.mean, config.std) == ((0.1, 0.1, 0.1), None)
        assert config == recipe("quick", data="digits", out=Path("run"), init_weights=lite, mean=(0.1, 0.1, 0.1))
    config, _ = parse([*flags, "--init-weights", lite, "--arch", "resnet18"])
    assert config.arch == "resnet18"
    config, _ = parse(flags)
    assert {name: getattr(config, name) for name in QUICK} == QUICK


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "reduced"])
def test_recipes_without_weights(name: str) -> None:
    """Have every value, also where the weights are said to be none."""
    config = recipe(name, data="digits", out=Path("run"), init_weights=None)
    settled: dict[str, Any] = {"view_size": 128} if config.small_views else {}
    assert with_weights(config) == dataclasses.replace(config, **settled)
    assert config == recipe(name, data="digits", out=Path("run"))


def test_the_teacher_is_also_where_the_student_begins(tmp_path: Path, lite: str) -> None:
    """`reduced` takes network, mean and std from its teacher, and keeps its own size; both flags name the weights."""
    config = with_weights(recipe("reduced", data="digits", out=tmp_path, teacher=lite))
    assert (config.init_weights, config.arch, config.image_size) == (lite, "timm:test_efficientnet_gn", 64)
    assert config.mean == (0.5, 0.5, 0.5)
    given = with_weights(recipe("reduced", data="digits", out=tmp_path, teacher=lite, init_weights=lite))
    assert given == config
    smaller = with_weights(recipe("reduced", data="digits", out=tmp_path, teacher=lite, image_size=48))
    assert smaller.image_size == 48
    with pytest.raises(BadInputError, match="--init-weights teacher starts from the weights of --teacher: give"):
        with_weights(dataclasses.replace(recipe("v1", data="digits", out=tmp_path), init_weights="teacher"))


def test_nothing_says_which_network(tmp_path: Path) -> None:
    """A value that is left open needs weights that have it."""
    config = dataclasses.replace(recipe("quick", data="digits", out=tmp_path), arch=None)
    with pytest.raises(BadInputError, match="--arch is left open: give a value, or --init-weights"):
        with_weights(config)


def test_a_run_says_and_keeps_what_it_took(tmp_path: Path, lite: str, capsys: pytest.CaptureFixture[str]) -> None:
    """config.json holds the values themselves; the same flags go on with it, and others are refused."""
    pretrain(settings(tmp_path, lite), load("digits")["train"])
    said = capsys.readouterr().out
    assert (
        f"f_q is that of {lite} (timm), its head is new (--init whitened); network, image size, mean and std come from "
        in said
    )
    assert "come from these weights, except --image-size\n" in said
    assert "timm:test_efficientnet_gn with 0.1 million parameters, views of 32 pixels" in said
    assert "no batch normalisation (--bn and --bn-groups have no effect)" in said
    kept = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert kept["arch"] == "timm:test_efficientnet_gn"
    assert (kept["image_size"], kept["mean"], kept["std"], kept["init_weights"]) == (32, [0.5] * 3, [0.5] * 3, lite)
    again = from_json(PretrainConfig, json.dumps(kept), tmp_path)
    for config in (settings(tmp_path, lite), again):
        assert pretrain(config, load("digits")["train"])["already_done"]
    with pytest.raises(BadInputError, match=r"holds a run with --mean \(0.5, 0.5, 0.5\), and now it is \(0.4"):
        pretrain(settings(tmp_path, lite, mean=(0.4,) * 3), load("digits")["train"])


def test_the_backbone_is_that_of_the_weights(tmp_path: Path, lite: str) -> None:
    """Bit for bit."""
    given = load_weights(lite).encoder
    torch.manual_seed(0)
    found = build_encoder(resolve_config(settings(tmp_path, lite), load("digits")["train"]))
    tensors = encoder_tensors(found)
    assert all(torch.equal(tensors[name], value) for name, value in given.backbone.state_dict().items())
    assert found.plan.image_size == 32


def test_one_of_our_runs(tiny_run: Path, tmp_path: Path) -> None:
    """Says what it is in the same way, and gives its head too."""
    config = with_weights(recipe("v2", data="digits", out=tmp_path, init_weights=str(tiny_run), head="linear"))
    assert (config.arch, config.stem, config.image_size) == ("resnet10-w8", "cifar", 16)
    assert (config.mean, config.std) == (QUICK["mean"], QUICK["std"])
    encoder = build_encoder(dataclasses.replace(config, batch_size=16, bn_groups=4))
    given = encoder_tensors(load_weights(str(tiny_run)).encoder)
    assert all(torch.equal(value, given[name]) for name, value in encoder_tensors(encoder).items())


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("continued", ("--arch", "timm:test_efficientnet_gn", "--image-size", "32", "--init", "whitened")),
        ("continued", ("--small-views",)),
        ("quick", ()),
    ],
    ids=["whitened", "small views", "quick"],
)
def test_a_run_goes_on_without_the_file_that_it_began_with(
    tmp_path: Path, lite: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str,
    more: tuple[str, ...],
) -> None:  # fmt: skip
    """Bit for bit, by the same command and by `moco resume`; it says nothing of what only a beginning has."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr("moco.commands.pretrain.warn_of_small", lambda *_: None)
    name, _, file = lite.partition("@")
    weights, run = Path(shutil.copy(file, tmp_path / "net.safetensors")), tmp_path / "run"
    flags = "--data digits --batch-size 16 --max-steps 4 --checkpoint-every 2 --knn-every 0 --precision fp32"
    command = ["pretrain", kind, *flags.split(), "--device", "cpu", "--workers", "0", *more, "--out", str(run)]
    command += ["--threads", "1", "--whiten", "0"]
    command += ["--init-weights", f"{name}@{weights}", *(("--keep", "last") if kind == "continued" else ())]
    assert main(command) == 0
    assert f"f_q is that of {name}@{weights} (timm)" in capsys.readouterr().out
    settled, (whole, _) = (run / "config.json").read_text(), load_tensors(checkpoint_path(run, 4))
    weights.unlink()
    for again in (command, ["resume", str(run)]):
        checkpoint_path(run, 4).unlink()
        (run / "status.json").write_text('{"state": "running"}')
        assert main(again) == 0
        out, err = capsys.readouterr()
        assert f"the run began with {name}@{weights} and goes on from its checkpoint of step 2" in out
        assert "f_q is that of" not in out
        assert "error" not in err
        found, _ = load_tensors(checkpoint_path(run, 4))
        assert all(torch.equal(found[key], value) for key, value in whole.items())
    assert (run / "config.json").read_text() == settled
    shutil.rmtree(run / "checkpoints")
    (run / "status.json").write_text('{"state": "running"}')
    assert main(["resume", str(run)]) == 2  # from the first step it needs them
    assert f"--init-weights {name}@{weights}" in capsys.readouterr().err


@pytest.mark.parametrize("again", ["the same", "resume"])
@pytest.mark.parametrize("view", [None, 160], ids=["as settled", "whole images"])
def test_a_run_from_before_there_were_small_views_goes_on(
    tmp_path: Path, lite: str, monkeypatch: pytest.MonkeyPatch, again: str, view: int | None
) -> None:
    """With views of its own size, whatever the recipe's are now."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr("moco.commands.pretrain.warn_of_small", lambda *_: None)
    run = tmp_path / "run"
    flags = "--data digits --batch-size 16 --max-steps 4 --checkpoint-every 2 --knn-every 0 --precision fp32 --whiten 0"
    command = ["pretrain", "continued", *flags.split(), "--device", "cpu", "--workers", "0", "--threads", "1"]
    command += ["--init-weights", lite, "--keep", "last", "--out", str(run)]
    assert main(command) == 0
    checkpoint_path(run, 4).unlink()
    (run / "status.json").write_text('{"state": "running"}')
    stored = json.loads((run / "config.json").read_text())
    for name in ("small_views", "teacher_crops"):
        del stored[name]
    stored["view_size"] = view or stored["view_size"]
    (run / "config.json").write_text(json.dumps(stored))
    assert main(command if again == "the same" else ["resume", str(run)]) == 0
    assert checkpoint_path(run, 4).is_file()
    assert json.loads((run / "config.json").read_text())["view_size"] == stored["view_size"]


def test_a_network_that_is_given_and_fits(tmp_path: Path) -> None:
    """Timm's ResNets have the tensors of ours, on which detectors can stand."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18")
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    config = settings(tmp_path / "run", f"timm:resnet18@{tmp_path / 'net.safetensors'}", arch="resnet18")
    encoder = build_encoder(resolve_config(config, load("digits")["train"]))
    assert encoder.plan.arch == "resnet18"
    assert torch.equal(encoder_tensors(encoder)["conv1.weight"], model.state_dict()["conv1.weight"])


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (
            {"arch": "resnet18"},
            ("a timm:test_efficientnet_gn", "does not fit --arch resnet18", "leave --arch and --stem out"),
        ),
        ({"arch": "timm:test_vit"}, ("does not fit --arch timm:test_vit", "leave --arch")),
        ({"arch": "timm:test_efficientne"}, ("did you mean timm:test_efficientnet",)),
        (
            {"arch": "timm:test_efficientnet_gn.r160_in1k"},
            (".r160_in1k names weights: give timm:test_efficientnet_gn",),
        ),
        ({"stem": "cifar"}, ("--stem cifar is for ResNets",)),
    ],
    ids=str,
)
def test_what_does_not_fit(
    tmp_path: Path, lite: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    given: dict[str, Any], parts: tuple[str, ...],
) -> None:  # fmt: skip
    """One line, exit code 2, and no run is begun."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    flags = [word for name, value in {**SMALL, **given}.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["pretrain", "quick", "--data", "digits", "--out", str(tmp_path / "run"), "--init-weights", lite, *flags]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in parts:
        assert part in error
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("flag", ["image_size", "view_size"])
def test_sizes_that_do_not_fit(tmp_path: Path, flag: str) -> None:
    """Of images and of views, before the first step, with one that does."""
    config = recipe("quick", data="digits", out=tmp_path, **{**SMALL, "arch": "timm:test_vit", "stem": "imagenet"})
    sizes: dict[str, Any] = {"view_size": 32, flag: 60}
    config = dataclasses.replace(config, **sizes)
    message = rf"--{flag.replace('_', '-')} 60: timm:test_vit does not .*: give --{flag.replace('_', '-')} 64"
    with pytest.raises(BadInputError, match=message):
        pretrain(config, load("digits")["train"])
    assert not list(tmp_path.iterdir())


def test_weights_for_one_size_only(tmp_path: Path) -> None:
    """Of a network whose tensors depend on the size: the size of the weights is named."""
    save_file(timm.create_model("test_coatnet", img_size=160).state_dict(), tmp_path / "net.safetensors")
    weights = f"timm:test_coatnet@{tmp_path / 'net.safetensors'}"
    with pytest.raises(BadInputError, match=r"for images of 160 pixels, which does not fit .*: give --image-size 160"):
        build_encoder(resolve_config(settings(tmp_path / "run", weights, image_size=64), load("digits")["train"]))
