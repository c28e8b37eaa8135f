"""Vision transformers in transformers' files: their features are those that transformers 5.24.0 itself gives.

The numbers in REFERENCES were computed there, from the folders that `write_folder` makes, by
`AutoModel.from_pretrained(folder)(pixel_values=picture()).last_hidden_state`: the class token's, or of DeiT the mean of
both tokens', as its classifiers average.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model
from timm.models._registry import _model_entrypoints, _model_pretrained_cfgs, generate_default_cfgs
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from moco.errors import BadInputError
from moco.interop import vits
from moco.interop.checkpoints import load_weights
from moco.interop.vits import rename_tensors
from tests.slow import slow

SIDE, PATCH, WIDTH, DEPTH, HEADS, REGISTERS = 16, 4, 32, 2, 2, 3
KINDS = ("vit", "deit", "dinov2", "dinov2_with_registers")
UNLIKE = {("vit", True), ("deit", False), ("dinov2_with_registers", False), ("dinov2_with_registers", True)}
"""Each kind of network and of names but DINOv2's without registers."""
REFERENCES: dict[str, list[float]] = {
    "vit": [
        0.437208,
        -0.2278098,
        1.139524,
        -0.8229067,
        -0.0976906,
        -0.4775482,
        2.431299,
        0.1547154,
        -1.141669,
        -0.5318193,
        1.248171,
        -1.023965,
        1.928025,
        -1.559499,
        1.162229,
        0.1172571,
    ],
    "deit": [
        -0.887166,
        0.7169976,
        0.7571485,
        -0.3548422,
        -0.5243424,
        -1.037277,
        -0.5251698,
        1.325145,
        0.766103,
        -0.8447055,
        0.447401,
        -0.1970402,
        0.2010544,
        -2.246555,
        0.7931277,
        0.8430805,
    ],
    "dinov2": [
        -2.452243,
        0.5236021,
        0.3515386,
        0.8825882,
        -0.2583121,
        0.8871122,
        -0.7634845,
        1.133896,
        -2.680979,
        0.1385905,
        -0.1110375,
        1.272685,
        -0.05254355,
        0.4098356,
        -0.6614613,
        1.425506,
    ],
    "dinov2_with_registers": [
        -2.160513,
        -0.02391658,
        1.129762,
        -0.0005697099,
        -1.205638,
        1.054912,
        -0.4776113,
        -0.1578506,
        -2.66294,
        0.2514839,
        0.03043373,
        0.7939354,
        -0.5668873,
        1.12657,
        -0.5799127,
        -0.7983266,
    ],
}
"""The first eight features of each of two pictures."""


def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file's tensors, as transformers writes them."""
    dino, w = kind.startswith("dinov2"), WIDTH
    tokens = (SIDE // PATCH) ** 2 + (2 if kind == "deit" else 1)
    found: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, w), "embeddings.position_embeddings": (1, tokens, w),
        "embeddings.patch_embeddings.projection.weight": (w, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (w,), "layernorm.weight": (w,), "layernorm.bias": (w,),
    }  # fmt: skip
    if kind == "deit":
        found["embeddings.distillation_token"] = (1, 1, w)
    if dino:
        found["embeddings.mask_token"] = (1, w)
    if kind == "dinov2_with_registers":
        found["embeddings.register_tokens"] = (1, REGISTERS, w)
    norms = ("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after")
    linear = {f"attention.attention.{part}": (w, w) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (w, w), ("mlp.fc1" if dino else "intermediate.dense"): (4 * w, w)}
    linear |= {("mlp.fc2" if dino else "output.dense"): (w, 4 * w)}
    for layer in (f"encoder.layer.{number}." for number in range(DEPTH)):
        found |= {f"{layer}{name}.weight": shape for name, shape in linear.items()}
        found |= {f"{layer}{name}.bias": shape[:1] for name, shape in linear.items()}
        found |= {f"{layer}{name}.{part}": (w,) for name in norms for part in ("weight", "bias")}
        found |= {f"{layer}layer_scale{number}.lambda1": (w,) for number in (1, 2) if dino}
    return found


def wave(number: int, *shape: int) -> Tensor:
    """Numbers between -1 and 1 that are the same everywhere."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) ** 2 * 0.371 + number).float().view(shape)


def tensors(kind: str) -> dict[str, Tensor]:
    """Weights of a file: matrices by their width, norms around 1."""
    return {
        name: (1 + 0.3 * wave(number, *shape) if name.endswith(("norm1.weight", "norm2.weight", "before.weight",
               "after.weight", "layernorm.weight", "lambda1")) else wave(number, *shape) * (2 / WIDTH) ** 0.5)
        for number, (name, shape) in enumerate(sorted(shapes(kind).items()))
    }  # fmt: skip


def write_folder(folder: Path, kind: str, prefix: str = "", **more: Any) -> Path:
    """A folder as `save_pretrained` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: value for name, value in tensors(kind).items()}, folder / "model.safetensors")
    config = {
        "model_type": kind, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH, "mlp_ratio": 4, "patch_size": PATCH, "image_size": SIDE, "num_channels": 3,
        "hidden_act": "gelu", "qkv_bias": True, "layer_norm_eps": 1e-6, "num_register_tokens": REGISTERS,
        "use_swiglu_ffn": False, **more,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    about = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "size": {"height": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


def picture() -> Tensor:
    """Two pictures (2, 3, S, S)."""
    return 2 * wave(1, 2, 3, SIDE, SIDE)


default_cfgs = generate_default_cfgs(
    {
        f"{network}.x": {"input_size": (3, SIDE, SIDE), "fixed_input_size": True, "mean": (0.1,) * 3, "std": (0.2,) * 3}
        for network in (
            "vit_mini_patch4_16",
            "deit_mini_distilled_patch4_16",
            "vit_mini_patch4_dinov2",
            "vit_mini_patch4_reg3_dinov2",
        )
    }
)


def build(network: type[VisionTransformer], name: str, options: dict[str, Any], **more: Any) -> Any:
    """Build a tiny network as timm builds its own."""
    mini = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, **more}
    return build_model_with_cfg(network, name, False, **{**mini, **options})


def vit_mini_patch4_16(pretrained: bool = False, **options: Any) -> Any:
    """Build what `vit` is."""
    return build(VisionTransformer, "vit_mini_patch4_16", options)


def deit_mini_distilled_patch4_16(pretrained: bool = False, **options: Any) -> Any:
    """Build what `deit` is."""
    return build(VisionTransformerDistilled, "deit_mini_distilled_patch4_16", options)


def vit_mini_patch4_dinov2(pretrained: bool = False, **options: Any) -> Any:
    """Build what `dinov2` is."""
    return build(VisionTransformer, "vit_mini_patch4_dinov2", options, init_values=1e-5)


def vit_mini_patch4_reg3_dinov2(pretrained: bool = False, **options: Any) -> Any:
    """Build what `dinov2_with_registers` is."""
    name = "vit_mini_patch4_reg3_dinov2"
    return build(VisionTransformer, name, options, init_values=1e-5, reg_tokens=REGISTERS, no_embed_class=True)


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let timm have a network for each kind that is small enough for a test."""
    known, configs = dict(_model_entrypoints), dict(_model_pretrained_cfgs)
    for entry in (vit_mini_patch4_16, deit_mini_distilled_patch4_16, vit_mini_patch4_dinov2,
                  vit_mini_patch4_reg3_dinov2):  # fmt: skip
        register_model(entry)
    monkeypatch.setitem(vits.SIZES, (WIDTH, DEPTH, HEADS), "mini")
    yield
    for name in _model_entrypoints.keys() - known.keys():
        del _model_entrypoints[name]
    for name in _model_pretrained_cfgs.keys() - configs.keys():
        del _model_pretrained_cfgs[name]


@pytest.mark.parametrize(
    ("kind", "wrapped"),
    [
        (kind, wrapped) if (kind, wrapped) in UNLIKE else slow(kind, wrapped)
        for kind in KINDS
        for wrapped in (False, True)
    ],
)
def test_features_are_transformers_own(tmp_path: Path, kind: str, wrapped: bool) -> None:
    """By --weights FOLDER, of the bare model and of one for classification; mean and deviation are the folder's."""
    found = load_weights(str(write_folder(tmp_path / "x", kind, f"{kind}." if wrapped else "")))
    assert (found.mean, found.std, found.origin) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "transformers")
    assert found.encoder.plan.image_size == SIDE
    with torch.no_grad():
        features = found.encoder.backbone.eval()(picture())
    torch.testing.assert_close(features[:, :8].flatten(), torch.tensor(REFERENCES[kind]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_names_in_memory_are_known_too(kind: str) -> None:
    """From version 5 on, `model.state_dict()` has others than its files."""
    own = tensors(kind)
    memory = {}
    for name, value in own.items():
        new = name.replace("encoder.layer.", "layers." if "dino" not in kind else "encoder.layer.")
        for old, short in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            new = new.replace(f"attention.attention.{old}", f"attention.{short}")
        new = new.replace("attention.output.dense", "attention.o_proj").replace("intermediate.dense", "mlp.fc1")
        memory[new.replace(".output.dense", ".mlp.fc2")] = value
    expected, found = rename_tensors(own), rename_tensors(memory)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hidden_size": 48}, "width 48, 2 layers and 2 heads, .* which is no network of timm"),
        ({"image_size": 20}, "images of 20 pixels, which is no network of timm"),
        ({"hidden_size": [32]}, "no network of timm"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu': expected 'gelu'"),
        ({"qkv_bias": False}, "qkv_bias is False"),
        ({"num_channels": 1}, "num_channels is 1"),
        ({"layer_norm_eps": 0.1}, "layer_norm_eps is 0.1"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    """Rather none than another network's features: in a line."""
    write_folder(tmp_path, "vit", **more)
    with pytest.raises(BadInputError, match=message) as caught:
        load_weights(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_tensor_that_is_missing(tmp_path: Path) -> None:
    """It is named."""
    write_folder(tmp_path, "vit")
    own = tensors("vit")
    del own["encoder.layer.1.attention.attention.key.bias"]
    save_file(own, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match=r"1 missing \(blocks\.1\.attn\.qkv\.bias\)"):
        load_weights(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("vit", "vit_base_patch16_224"),
        ("deit", "deit_small_distilled_patch16_224"),
        ("dinov2", "vit_large_patch14_dinov2"),
    ],
)
def test_published_sizes_have_timms_names(kind: str, name: str) -> None:
    """google/vit-base-patch16-224 and the like."""
    width, depth, heads = next(own for own, size in vits.SIZES.items() if size == name.split("_")[1])
    config = {
        "model_type": kind, "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
        "patch_size": 14 if "patch14" in name else 16, "image_size": 518 if "dino" in name else 224,
    }  # fmt: skip
    assert vits.name_network(config, "x") == name
    assert name in timm.list_models()
