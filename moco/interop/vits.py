"""Vision transformers of Hugging Face's transformers: which network of timm one is, and timm's names of its tensors."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from moco.core.networks import is_known_name
from moco.errors import BadInputError, quote

SIZES = {
    (192, 12, 3): "tiny", (384, 12, 6): "small", (768, 12, 12): "base", (1024, 24, 16): "large", (1280, 32, 16): "huge",
}  # fmt: skip
"""Width, depth and heads, and what timm calls a network with these."""
NARROW = {192: 3, 384: 6}
"""Heads of timm's networks by width, where MoCo v3 has 12."""
NETWORKS = {
    "vit": "vit_{size}_patch{patch}_{side}", "deit": "deit_{size}_distilled_patch{patch}_{side}",
    "dinov2": "vit_{size}_patch{patch}_dinov2",
    "dinov2_with_registers": "vit_{size}_patch{patch}_reg{registers}_dinov2",
}  # fmt: skip
"""The `model_type` of a config.json, and timm's name of the network."""
EXPECTED: Mapping[str, Any] = {
    "hidden_act": "gelu", "qkv_bias": True, "num_channels": 3, "use_swiglu_ffn": False, "apply_layernorm": True,
}  # fmt: skip
"""Values of a config.json without which the network is another one; a value that is not there is as expected."""
LARGEST_EPSILON = 1e-5
"""timm's networks have 1e-6, with which ViT and DeiT were trained; transformers writes 1e-12 for them."""
NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^(?:vit|deit|dinov2|dinov2_with_registers)\.", ""),
        (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.mask_token$", "mask_token"),
        (r"^layernorm\.", "norm."),
        (r"\.attention\.(?:attention\.)?(query|key|value)\.", r".attn.\1."),
        (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    )
)
"""Names in files, and in memory from transformers 5 on, and timm's."""
QKV = {"query": 0, "key": 1, "value": 2, "q": 0, "k": 1, "v": 2}
PART = re.compile(r"(.*\.attn)\.(query|key|value|q|k|v)\.(weight|bias)")


def name_network(config: Mapping[str, Any], where: str) -> str:
    """Return timm's name of the network that a config.json describes.

    Raises BadInputError where timm has none, with what was found and expected.
    """
    for key, expected in EXPECTED.items():
        if config.get(key, expected) != expected:
            raise BadInputError(f"{where}: {key} is {quote(config[key])}: expected {quote(expected)}")
    epsilon = config.get("layer_norm_eps", 0)
    if type(epsilon) not in (int, float) or not 0 <= epsilon <= LARGEST_EPSILON:
        raise BadInputError(f"{where}: layer_norm_eps is {str(epsilon)[:40]}: expected at most {LARGEST_EPSILON}")
    width, depth, heads = (config.get(key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    values = {key: config.get(key) for key in ("patch_size", "image_size", "num_register_tokens")}
    size = next((name for found, name in SIZES.items() if found == (width, depth, heads)), None)
    name = NETWORKS[config["model_type"]].format(
        size=size, patch=values["patch_size"], side=values["image_size"], registers=values["num_register_tokens"]
    )
    if size is None or not is_known_name(name):
        among = ", ".join(f"{own} ({name})" for own, name in SIZES.items())
        raise BadInputError(
            f"{where}: a {config['model_type']} of width {str(width)[:20]}, {str(depth)[:20]} layers and "
            f"{str(heads)[:20]} heads, patches of {str(values['patch_size'])[:20]} and images of "
            f"{str(values['image_size'])[:20]} pixels, which is no network of timm: expected {among}, as published"
        )
    return name


def require_heads(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise BadInputError for MoCo v3's narrow transformers, which have more heads than timm's of the same tensors.

    Their fixed places show them: sines and cosines, first of the rows (MAE's are first of the columns).
    """
    places = tensors.get("pos_embed")
    if places is None or places.dim() != 3 or places.shape[1] < 3 or places.shape[2] not in NARROW:
        return
    quarter = places.shape[2] // 4
    omega = 1 / 10000 ** (torch.arange(quarter) / quarter)
    second = places[0, 2].float()  # patch of the first row
    row, column = second[: 2 * quarter], second[2 * quarter :]
    expected = torch.cat([omega.sin(), omega.cos()])
    if not bool(places[0, 0].any()) and not bool(row[:quarter].any()) and torch.allclose(column, expected, atol=1e-2):
        raise BadInputError(
            f"{where}: a transformer of MoCo v3, with 12 heads at a width of {places.shape[2]}, where timm's have "
            f"{NARROW[places.shape[2]]}: no network of timm has its features; its ViT-Base and larger are timm's"
        )


def rename_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under timm's names, with query, key and value as one.

    Where there are registers, timm knows the places of patches only: that of the class token is added to it.
    """
    renamed, parts = dict[str, Tensor](), dict[str, dict[int, Tensor]]()
    for name, value in tensors.items():
        known = name
        for pattern, new in NAMES:
            known = pattern.sub(new, known)
        part = PART.fullmatch(known)
        if part is None:
            renamed[known] = value
        else:
            parts.setdefault(f"{part[1]}.qkv.{part[3]}", {})[QKV[part[2]]] = value
    renamed |= {name: torch.cat([own[row] for row in range(3)]) for name, own in parts.items() if len(own) == 3}
    if {"reg_token", "pos_embed", "cls_token"} <= renamed.keys():
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed
