"""Published weights by name: of timm from a file, the cache or the hub, and of every network of torchvision."""

import hashlib
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config
from torch import Tensor, nn

import moco
from moco.core.networks import timm_config
from moco.errors import BadInputError
from moco.interop import downloads
from moco.interop.checkpoints import load_weights
from moco.interop.published import load_published
from moco.runtime.checkpoint import save_tensors
from tests.slow import slow

KINDS = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", slow("mobilenetv3_small_050"), "levit_128s"]
"""Networks of timm: their classifiers are `fc`, `classifier`, `head.fc`, `head`, and with a normalisation `head.bn`."""


@pytest.fixture(autouse=True)
def no_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights stand here under the names of published ones, which have their digest (`test_downloads.py`)."""
    monkeypatch.setattr(downloads, "IN_NAME", re.compile("(?!)"))


def with_statistics(model: nn.Module) -> nn.Module:
    """Random statistics too, as after training."""
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model.eval()


def made(name: str) -> nn.Module:
    """Timm's own network, of random weights, with its classifier."""
    torch.manual_seed(0)
    return with_statistics(timm.create_model(name))


def saved(folder: Path, name: str) -> tuple[nn.Module, Path]:
    """The network, and the file that timm itself writes of it."""
    model = made(name)
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    return model, folder / "model.safetensors"


@torch.no_grad()
def check_features(weights: str, model: nn.Module, size: int) -> None:
    """The encoder's features must be those that timm pools and hands to its classifier, its images' form timm's."""
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=model.pretrained_cfg)  # type: ignore[no-untyped-call]
    encoder = moco.load_encoder(weights)
    assert (encoder.image_size, encoder.mean, encoder.std) == (config["input_size"][-1], config["mean"], config["std"])
    assert load_weights(weights).origin == "timm"
    x = torch.randn(2, 3, size, size)
    library: Any = model.eval()
    expected = library.forward_head(library.forward_features(x), pre_logits=True)
    torch.testing.assert_close(encoder(x), expected)
    pixels = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    assert encoder.embed([pixels]).shape == expected[:1].shape


def check_refused(weights: str, *messages: str) -> None:
    """The message must be one line, name the weights, and hold each of `messages`."""
    with pytest.raises(BadInputError) as caught:
        load_weights(weights)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in messages:
        assert part in message


# --- a file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_timm_wrote(tmp_path: Path, name: str) -> None:
    """The backbone and the form of its images; the classifier is left away."""
    model, path = saved(tmp_path, name)
    check_features(f"timm:{name}@{path}", model, timm_config(f"timm:{name}").input_size[-1])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_of_tensors(tmp_path: Path, wrapped: bool) -> None:
    """As torch.save writes it, alone or as timm's training script does, from a wrapped model."""
    model = made("test_efficientnet")
    state = model.state_dict()
    content = (
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}} if wrapped else state
    )
    torch.save(content, tmp_path / "net.pth")
    check_features(f"timm:test_efficientnet@{tmp_path / 'net.pth'}", model, 64)


def test_a_file_without_a_classifier(tmp_path: Path) -> None:
    """Is as good."""
    model = made("test_convnext")
    model.set_submodule("head.fc", nn.Identity())
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    check_features(f"timm:test_convnext@{tmp_path / 'net.safetensors'}", model, 64)


def test_a_file_of_older_names(tmp_path: Path) -> None:
    """Is renamed by timm's own loading, as its published file is: the first ConvNeXt had others."""
    model = made("test_convnext")
    path = tmp_path / "net.safetensors"
    older = {
        name.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.").replace("head.fc.", "head."): value
        for name, value in model.state_dict().items()
    }
    for stage in (1, 2, 3):
        older = {n.replace(f"stages.{stage}.downsample.", f"downsample_layers.{stage}."): v for n, v in older.items()}
    older = {
        n.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv"): v.contiguous()
        for n, v in older.items()
    }
    assert not any(name.startswith(("stem", "head.fc")) or ".blocks." in name for name in older)
    save_file(older, path)
    check_features(f"timm:test_convnext@{path}", model, 64)


def test_a_tag_says_which_images(tmp_path: Path) -> None:
    """Mean and deviation may be another for other weights of a network."""
    name = "resnet18.fb_swsl_ig1b_ft_in1k"
    save_file(made("resnet18").state_dict(), tmp_path / "net.safetensors")
    found = load_published(f"timm:{name}@{tmp_path / 'net.safetensors'}")
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    assert (found.plan.arch, found.mean, found.std) == ("timm:resnet18", config.mean, config.std)


def test_another_number_of_classes(tmp_path: Path) -> None:
    """As of a network that someone fine-tuned."""
    model = timm.create_model("test_vit", num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    check_features(f"timm:test_vit@{tmp_path / 'net.safetensors'}", model, 160)


# --- files that are refused -----------------------------------------------------------------------------------------


def test_weights_of_another_network(tmp_path: Path) -> None:
    """The message says how many tensors are missing and left over, and names the first of each."""
    _, path = saved(tmp_path, "test_resnet")
    messages = (
        "not a whole timm:test_efficientnet",
        "missing (conv_stem.weight, ",
        " left over (",
        "4 of another shape",
    )
    check_refused(f"timm:test_efficientnet@{path}", str(path), *messages)
    check_refused(f"timm:test_vit@{path}", "not a whole timm:test_vit", "missing (cls_token")


def test_weights_of_the_same_names(tmp_path: Path) -> None:
    """And other shapes: nothing is resampled to fit."""
    model = timm.create_model("test_vit", img_size=32)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    check_refused(f"timm:test_vit@{tmp_path / 'net.safetensors'}", "1 of another shape", "pos_embed (1, 5, 64) for")


@pytest.mark.parametrize("fault", ["missing", "left over"])
def test_half_a_network(tmp_path: Path, fault: str) -> None:
    """A backbone is never partly random."""
    _, path = saved(tmp_path, "test_efficientnet")
    tensors = load_file(path)
    if fault == "missing":
        del tensors["blocks.1.0.bn1.weight"], tensors["conv_stem.weight"]
    else:
        tensors |= {"blocks.9.conv.weight": torch.zeros(2), "extra": torch.zeros(2)}
    save_file(tensors, path)
    names = {"missing": "2 missing (conv_stem.weight, blocks.1.0.bn1.weight)", "left over": "1 left over (blocks.9"}
    check_refused(f"timm:test_efficientnet@{path}", names[fault])


def test_numbers_that_are_none(tmp_path: Path) -> None:
    """As in any other weights."""
    _, path = saved(tmp_path, "test_resnet")
    tensors = load_file(path)
    tensors["bn1.running_var"][0] = torch.nan
    save_file(tensors, path)
    check_refused(f"timm:test_resnet@{path}", "bn1.running_var has numbers that are not finite")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        import os

        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_runs_is_refused(tmp_path: Path) -> None:
    """Whatever it is called, and nothing in it is run."""
    for name in ("net.pth", "net.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"conv": Trap(tmp_path / "sprung")}))
        check_refused(f"timm:test_resnet@{tmp_path / name}", "not a valid checkpoint of torch.save")
        torch.save({"conv": Trap(tmp_path / "sprung")}, tmp_path / name)
        check_refused(f"timm:test_resnet@{tmp_path / name}", "refused")
    assert not (tmp_path / "sprung").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    """Not there, a folder, damaged, and one of our own, which needs no name."""
    (tmp_path / "text.pth").write_text("weights", encoding="utf-8")
    save_tensors(tmp_path / "ours.safetensors", {"a": torch.zeros(1)}, {})
    _, path = saved(tmp_path / "net", "test_resnet")
    path.write_bytes(path.read_bytes()[:1000])
    for file, messages in (
        ("gone.safetensors", "there is no file"), ("", "there is no file"), ("text.pth", "a text file, not weights"),
        ("ours.safetensors", f"without the network's name, --weights {tmp_path / 'ours.safetensors'}"),
        ("net/model.safetensors", "is damaged"),
    ):  # fmt: skip
        check_refused(f"timm:test_resnet@{tmp_path / file}", messages)
    check_refused("timm:test_resnet@", "there is no file")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("timm:test_efficientne@net.pth", "did you mean timm:test_efficientnet"),
        ("timm:resnet50.a1_in1", "did you mean timm:resnet50.a1_in1k"),
        ("timm:test_coatnet", "timm publishes no weights of it: give timm:test_coatnet@FILE"),
        ("torchvision:resnet5O", "torchvision has no weights of that name: did you mean torchvision:resnet50"),
        ("torchvision:", "expected torchvision:resnet50"),
    ],
)
def test_names_that_are_not_known(weights: str, message: str) -> None:
    """With what was probably meant."""
    check_refused(weights, f"--weights {weights.partition('@')[0]}:", message)


# --- the hub --------------------------------------------------------------------------------------------------------

REPOSITORY, REVISION = "timm/test_vit.r160_in1k", "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face; the network is not asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(cache: Path, content: bytes, file: str = "model.safetensors") -> Path:
    """What the hub's own library leaves in its cache of a download: the content under its digest, and links to it."""
    folder = cache / f"models--{REPOSITORY.replace('/', '--')}"
    digest = hashlib.sha256(content).hexdigest()
    for part in ("blobs", "refs", f"snapshots/{REVISION}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "blobs" / digest).write_bytes(content)
    (folder / "refs" / "main").write_text(REVISION)
    place = folder / "snapshots" / REVISION / file
    place.symlink_to(folder / "blobs" / digest)
    return place


def written(folder: Path) -> tuple[nn.Module, bytes]:
    """A network, and the content of its published file."""
    model, path = saved(folder, "test_vit")
    return model, path.read_bytes()


def test_weights_that_the_cache_has(tmp_path: Path, cache: Path) -> None:
    """Are taken without asking the network."""
    model, content = written(tmp_path / "net")
    cached(cache, content)
    check_features("timm:test_vit", model, 160)
    check_features("timm:test_vit.r160_in1k", model, 160)


def test_an_older_file_in_the_cache(tmp_path: Path, cache: Path) -> None:
    """A pickle of tensors, read as any other."""
    model, _ = written(tmp_path / "net")
    torch.save(model.state_dict(), tmp_path / "net.bin")
    cached(cache, (tmp_path / "net.bin").read_bytes(), "pytorch_model.bin")
    check_features("timm:test_vit", model, 160)


def test_a_download(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goes into the cache, once; it is said where it comes from."""
    model, content = written(tmp_path / "net")
    asked = []

    def download(repository: str, file: str, **_: Any) -> str:
        asked.append((repository, file))
        return str(cached(cache, content, file))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for _ in range(2):
        check_features("timm:test_vit", model, 160)
    assert asked == [(REPOSITORY, "model.safetensors")]
    assert capsys.readouterr().out == f"fetching model.safetensors from https://huggingface.co/{REPOSITORY}\n"


def test_a_repository_without_safetensors(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pickle of tensors is fetched then."""
    model, _ = written(tmp_path / "net")
    torch.save(model.state_dict(), tmp_path / "net.bin")

    def download(_: str, file: str, **__: Any) -> str:
        if file != "pytorch_model.bin":
            raise EntryNotFoundError(f"404: {file}")
        return str(cached(cache, (tmp_path / "net.bin").read_bytes(), file))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    check_features("timm:test_vit", model, 160)


@pytest.mark.parametrize("at", ["cache", "download"])
def test_a_file_of_another_digest(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Is not used: the message says what to remove, and nothing is removed by us."""
    _, content = written(tmp_path / "net")

    def damaged(*_: Any, **__: Any) -> str:
        place = cached(cache, content)
        place.resolve().write_bytes(content[:-1] + b"?")
        return str(place)

    if at == "cache":
        damaged()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", damaged)
    check_refused("timm:test_vit", "is damaged, its SHA-256 is", "remove it, and it is fetched again")
    assert list((cache / "models--timm--test_vit.r160_in1k" / "blobs").iterdir())


def test_no_network(cache: Path) -> None:
    """The library's own answer, in one line, with what to do instead."""
    check_refused(
        "timm:test_vit", f"--weights timm:test_vit: https://huggingface.co/{REPOSITORY} cannot be fetched (",
        "download model.safetensors on another machine, and give timm:test_vit@FILE",
    )  # fmt: skip


HTTP = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


@pytest.mark.parametrize(
    "error",
    [ConnectionError("reset by peer"), OSError(28, "No space left on device"), RuntimeError("consistency check"),
     HTTP("503 Service Unavailable"), TimeoutError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_download_that_fails(cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """In whatever way."""

    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    check_refused("timm:test_vit", f"cannot be fetched ({str(error) or 'TimeoutError'})", "timm:test_vit@FILE")


def test_a_repository_without_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the files that are asked for."""

    def download(*_: Any, **__: Any) -> str:
        raise EntryNotFoundError("404")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    check_refused("timm:test_vit", "it has none of model.safetensors, pytorch_model.bin")


# --- torchvision ----------------------------------------------------------------------------------------------------

OF_TORCHVISION = {
    "mobilenet_v3_small": 64,
    "squeezenet1_1": 64,
    "mnasnet0_5": 64,
    "densenet121": 64,
    "googlenet": 64,
    "regnet_y_400mf": 64,
    "shufflenet_v2_x0_5": 64,
    "swin_t": 64,
    "efficientnet_b1": 64,
}
"""Networks of torchvision of which something is not like in the others: classifiers, names, inner normalisation."""
UNLIKE = {"squeezenet1_1", "densenet121", "googlenet", "shufflenet_v2_x0_5"}
"""No linear classifier, other names in the file, other normalisation of the images, and none of these."""


def in_torchs_cache(home: Path, arch: str) -> nn.Module:
    """Torchvision's own network of random weights, and its published file with these in torch's cache."""
    torch.manual_seed(0)
    options = {"init_weights": True} if arch == "googlenet" else {}
    model = with_statistics(torchvision.models.get_model(arch, weights=None, **options))
    entry = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    path = home / "hub" / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True)
    state = model.state_dict()
    if arch.startswith("densenet"):  # as in the published file
        parts = ("norm", "relu", "conv")
        state = {name if "denselayer" not in name else _dotted(name, parts): value for name, value in state.items()}
    torch.save(state, path)
    return model


def _dotted(name: str, parts: tuple[str, ...]) -> str:
    for part in parts:
        name = name.replace(f"{part}1.", f"{part}.1.").replace(f"{part}2.", f"{part}.2.")
    return name


@pytest.mark.parametrize(
    ("arch", "size"),
    [one if one[0] in UNLIKE else slow(*one) for one in OF_TORCHVISION.items()],
)
def test_a_network_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, size: int) -> None:
    """Its features are what torchvision's own network hands to its last layer, its images' form torchvision's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = in_torchs_cache(tmp_path, arch)
    if arch == "googlenet":
        setattr(model, "transform_input", True)  # noqa: B010
    preset = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].transforms()
    encoder = moco.load_encoder(f"torchvision:{arch}")
    assert encoder.image_size == preset.crop_size[0]
    pixels = torch.rand(2, 3, size, size)

    def normalised(mean: Any, std: Any) -> Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    seen: list[Tensor] = []
    if arch.startswith("squeezenet"):
        last: nn.Module = model.get_submodule("classifier.1")  # before the pooling, which is linear
        last.register_forward_pre_hook(lambda _, given: seen.append(given[0].relu().mean((2, 3))))
    else:
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model.eval()(normalised(preset.mean, preset.std))
        found = encoder(normalised(encoder.mean, encoder.std))
    torch.testing.assert_close(found, seen[-1], rtol=1e-4, atol=1e-5)
    assert load_weights(f"torchvision:{arch}").encoder.plan.arch == arch


def test_a_resnet_of_torchvision_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before: what is done with ResNets alone is done with it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    in_torchs_cache(tmp_path, "resnet18")
    found = load_weights("torchvision:resnet18")
    assert (found.encoder.plan.arch, found.encoder.plan.image_size, found.origin) == ("resnet18", 224, "torchvision")
    assert not any("read as" in note for note in found.notes)


def test_a_damaged_file_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are missing are reported as anywhere."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    in_torchs_cache(tmp_path, "mobilenet_v3_small")
    path = next((tmp_path / "hub" / "checkpoints").iterdir())
    state = torch.load(path, weights_only=True)
    del state["features.0.0.weight"]
    torch.save(state, path)
    check_refused("torchvision:mobilenet_v3_small", "not a whole mobilenet_v3_small", "1 missing (features.0.0.weight)")
    path.write_bytes(b"{}")
    check_refused("torchvision:mobilenet_v3_small", "a text file, not weights")


def test_every_network_of_torchvision_has_weights() -> None:
    """That are known by its name, with a size and three colours."""
    from moco.interop import published as room

    for arch in torchvision.models.list_models(module=torchvision.models):
        entry = room._entry(f"torchvision:{arch}")
        preset = entry.transforms()
        assert entry.url.startswith("https://")
        assert len(preset.crop_size) == 1
        assert len(preset.mean) == 3
        assert json.dumps([*preset.mean, *preset.std])
