"""An encoder for each side of the pairs: against a plain loop, interrupted, its files, and what is refused."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

from moco.commands import embed, pretrain
from moco.core.encoder import Encoder
from moco.data.catalog import load
from moco.data.loader import Batch
from moco.errors import BadInputError
from moco.evaluation.config import EmbedConfig
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import encoder_plan
from moco.pretraining.loop import pretrain as train
from moco.pretraining.monitor import ENCODERS
from moco.pretraining.prepare import build_batches, resolve_config
from moco.pretraining.pretexts import open_partner
from moco.pretraining.recipes import recipe
from moco.pretraining.sides import list_sides
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from tests.distributed.session import Shares
from tests.pretraining.algorithm_1 import Weights, info_nce, named, on_one_device
from tests.pretraining.test_loop import interrupted_at, losses, same
from tests.slow import slow

STEPS, M = 4, 0.9
SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 12, "view_size": None, "batch_size": 8, "queue_size": 12, "bn_groups": 2,
    "max_steps": STEPS, "log_every": 1, "checkpoint_every": 1, "knn_every": 0, "threads": 1, "workers": 0,
    "precision": "fp32", "device": "cpu", "augment": "cifar", "base_lr": 0.3, "feature_dim": 8, "init": "kaiming",
    "optimizer": "sgd", "key_momentum": M, "pretext": "paired", "partner_encoder": "own", "symmetric": True,
}  # fmt: skip


Cameras = tuple[str, str]


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Cameras:
    """Two folders of 16 files each, by the same names: pictures of RGB, and two bands of 16 bits."""
    drawn, root = np.random.default_rng(0), tmp_path_factory.mktemp("cameras")
    for number in range(16):
        for camera in ("colour", "depth"):
            (root / camera / str(number % 2)).mkdir(parents=True, exist_ok=True)
        place = Path(str(number % 2), str(number))
        Image.fromarray(drawn.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(root / "colour" / f"{place}.png")
        bands = drawn.integers(0, 4096, (2, 12, 12), dtype=np.uint16)
        tifffile.imwrite(root / "depth" / f"{place}.tif", bands, photometric="minisblack", planarconfig="separate")
    return str(root / "colour"), str(root / "depth")


def small(out: Path, cameras: Cameras, **values: Any) -> PretrainConfig:
    """A config of four small steps."""
    given = {"dictionary": "queue", **SMALL, **values}
    return recipe("quick", data=cameras[0], partner=cameras[1], out=out, **given)


def oracle(config: PretrainConfig, batches: list[Batch]) -> tuple[list[float], list[Weights], list[Weights]]:
    """The loss of every step, and the encoders and their momentum encoders at the end, in float64 and plain loops.

    Each query of one camera is compared with its image's key of the other camera, made by that one's momentum encoder,
    and with earlier keys of it; in-batch with keys of now, whose encoder learns from them too. With one BN group it
    does not matter in which order images are encoded: nothing is shuffled here.
    """
    torch.manual_seed(config.seed)
    plans = [encoder_plan(settings) for settings, _ in list_sides(config, load(config.data)["train"])]
    assert [plan.channels for plan in plans] == [3, 2]
    drawn = [Encoder(plan).named_parameters() for plan in plans]
    q = [named({name: value.detach() for name, value in one}, "") for one in drawn]
    k = [dict(one) for one in q]
    velocity = [{name: torch.zeros_like(value) for name, value in one.items()} for one in q]
    first = torch.randn(config.queue_size, config.feature_dim, generator=torch.Generator().manual_seed(config.seed))
    queues = [[(key / key.norm(), -1) for key in first] for _ in q]
    found = []
    for step, batch in enumerate(batches):
        assert batch.x_k is not None
        views = [list(batch.x_q.double()), list(batch.x_k.double())]
        leaves = [{name: value.clone().requires_grad_() for name, value in one.items()} for one in q]
        queries = [on_one_device(one, x, 1) for one, x in zip(leaves, views, strict=True)]
        keys = [[key.detach() for key in on_one_device(one, x, 1)] for one, x in zip(k, views, strict=True)]
        total = torch.zeros(())
        for here, there in ((0, 1), (1, 0)):
            for i, query in enumerate(queries[here]):
                positive, others = keys[there][i], queues[there]
                if config.dictionary == "in-batch":
                    positive = queries[there][i]
                    others = [(key, j) for j, key in enumerate(queries[there]) if j != i]
                total = total + info_nce(query, positive, others, config.temperature) / config.batch_size
        found.append(float(total.detach()) / 2)
        slopes = iter(torch.autograd.grad(total, [value for one in leaves for value in one.values()]))
        rate, mu, m = float(config.lr or 0) * (1 + math.cos(math.pi * step / STEPS)) / 2, config.sgd_momentum, M
        for side in (0, 1):
            for name, value in q[side].items():
                slope = next(slopes) + config.weight_decay * value
                velocity[side][name] = mu * velocity[side][name] + slope
                q[side][name] = value - rate * velocity[side][name]
                k[side][name] = m * k[side][name] + (1 - m) * q[side][name]
            queues[side] = [*queues[side][len(keys[side]) :], *((key, 0) for key in keys[side])]
    return found, q, k


@pytest.mark.filterwarnings("ignore:--bn-groups 1:UserWarning")
@pytest.mark.parametrize("dictionary", ["queue", slow("in-batch")])
def test_a_run_is_two_losses_of_two_encoders(tmp_path: Path, cameras: Cameras, dictionary: str) -> None:
    """Losses in float64, and all encoders at the end; each file holds the encoder of its camera and how it sees."""
    config = small(tmp_path / "run", cameras, dictionary=dictionary, bn_groups=1)
    images = load(config.data)["train"]
    resolved = resolve_config(config, images)
    whole = build_batches(resolved, images)
    batches = [whole[step] for step in range(STEPS)]
    torch.set_default_dtype(torch.float64)
    try:
        train(config, images, batches=Shares(batches, torch.float64, key_views=True))
        expected, q, k = oracle(resolved, batches)
    finally:
        torch.set_default_dtype(torch.float32)
    assert losses(config.out) == pytest.approx(expected, rel=1e-9)
    assert abs(expected[0] - expected[-1]) > 0.01
    state = load_tensors(checkpoint_path(config.out, STEPS))[0]
    for side, letter in enumerate("fg"):
        made = {f"{letter}_q": q[side]} | ({f"{letter}_k": k[side]} if dictionary == "queue" else {})
        for name, weights in made.items():
            own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            for key, value in named(own, "").items():
                torch.testing.assert_close(value, weights[key], rtol=1e-7, atol=1e-9)
    assert (dictionary == "queue") == ("g_dictionary.keys" in state)

    left, right = (load_weights(str(config.out / name)) for name in ENCODERS)
    assert (left.form, left.encoder.plan.channels) == (None, 3)
    assert right.form is not None
    assert (right.form.depth, right.encoder.plan.channels) == ("uint16", 2)
    assert right.mean == pytest.approx((2048, 2048), rel=0.05)
    for letter, read in (("f", left), ("g", right)):
        for name, value in read.encoder.named_parameters():
            torch.testing.assert_close(value, state[f"{letter}_q.{name}"].float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dictionary", ["queue", slow("in-batch")])
def test_a_run_that_was_broken_off_goes_on_bit_for_bit(tmp_path: Path, cameras: Cameras, dictionary: str) -> None:
    """Both encoders, both queues, and the momenta of both."""
    ends, images = list[list[dict[str, Tensor]]](), load(cameras[0])["train"]
    more = {"dictionary": dictionary, "knn_every": 1, "optimizer": "muon", "init": "whitened"}
    for name in ("whole", "broken"):
        config = small(tmp_path / name, cameras, **more)
        if name == "broken":
            with pytest.raises(RuntimeError, match="the machine fails"):
                train(config, images, interrupted_at(2))
        assert train(config, images, lambda encoder: {})["step"] == STEPS
        files = (checkpoint_path(config.out, STEPS), *(config.out / file for file in ENCODERS))
        ends.append([load_tensors(file)[0] for file in files])
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert all(same(one, other) for one, other in zip(*ends, strict=True))
    assert not torch.equal(ends[0][1]["layer1.0.conv1.weight"], ends[0][2]["layer1.0.conv1.weight"])


def test_from_the_command_to_features_of_both_cameras(
    tmp_path: Path, cameras: Cameras, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its monitor and its health, which reads both encoders, and weights to begin with."""
    config = small(tmp_path / "run", cameras, knn_every=2, json=True)
    assert pretrain.run(config)["effective_rank"] > 1
    said = capsys.readouterr().err
    assert f"pretext paired with {cameras[1]}, each with its own encoder" in said
    for data, file in zip(cameras, ENCODERS, strict=True):
        out = tmp_path / f"{file}.npz"
        embed.run(EmbedConfig(weights=str(config.out / file), data=data, out=out, threads=1, device="cpu"))
        with np.load(out) as features:
            assert features["features"].shape == (16, 32)
    other = (str(cameras[1]), str(cameras[0]))  # what was left is right: weights of two bands fit the left alone
    begun = small(tmp_path / "begun", other, init_weights=str(config.out / ENCODERS[1]), max_steps=1)
    with pytest.raises(BadInputError, match="takes 2 channels of uint16, and the images have 3 channel"):
        pretrain.run(begun)


@pytest.mark.parametrize("turned", [False, True])
def test_one_encoder_for_other_channels(tmp_path: Path, cameras: Cameras, turned: bool) -> None:
    """Says what both sides are, and which flag takes them, before the first step."""
    left, right = reversed(cameras) if turned else cameras
    kinds = "bytes of RGB", "2 channels of uint16"
    mine, theirs = reversed(kinds) if turned else kinds
    config = small(tmp_path / "run", (left, right), partner_encoder="shared")
    with pytest.raises(BadInputError, match=f"--partner {right}: {theirs}, .* are {mine}: give --partner-encoder own"):
        pretrain.run(config)


def test_deep_grey_beside_colours(tmp_path: Path) -> None:
    """Is not scaled to bytes unless that is asked for, and then by the level that was given."""
    pixels = np.random.default_rng(0).integers(0, 3000, (16, 12, 12)).astype(np.uint16)
    for name in ("colour", "deep"):
        (tmp_path / name).mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "deep" / f"{number}.png")
        Image.fromarray((image // 12).astype(np.uint8)).convert("RGB").save(tmp_path / "colour" / f"{number}.png")
    sets = str(tmp_path / "colour"), str(tmp_path / "deep")
    config = small(tmp_path / "run", sets, partner_encoder="shared")
    with pytest.raises(BadInputError, match=f"--partner {sets[1]}: 16-bit images, .* of RGB: .*--white-level 4095 "):
        pretrain.run(config)
    scaled = dataclasses.replace(config, white_level=2000)
    keys, _ = open_partner(scaled, load(sets[0], white_level=2000)["train"])
    expected = np.floor(np.minimum(pixels[0], 2000) * (255 / 2000) + 0.5)
    assert np.array_equal(keys[0].numpy(), np.broadcast_to(expected, (3, 12, 12)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pretext": "views", "partner": None}, "--partner-encoder own is for --pretext paired, and it is views"),
        ({"symmetric": False}, "--partner-encoder own trains two encoders.*: give --symmetric too"),
        ({"keep": "best", "knn_every": 1}, "--keep best chooses by the encoder of --data alone"),
        ({"dictionary": "memory-bank"}, "--dictionary memory-bank makes no key of x_k"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, cameras: Cameras, values: dict[str, Any], message: str) -> None:
    """One line, before the first step."""
    given: dict[str, Any] = {**SMALL, "dictionary": "queue", "partner": cameras[1], **values}
    with pytest.raises(BadInputError, match=message):
        pretrain.run(recipe("quick", data=cameras[0], out=tmp_path / "run", **given))
