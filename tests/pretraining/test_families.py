"""One network of every family of timm: a step of MoCo at its smallest images, saved and read back; files of timm."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from moco.core.dictionary import Queue
from moco.core.encoder import Encoder, EncoderPlan, encoder_tensors
from moco.core.loss import info_nce
from moco.core.networks import timm_config
from moco.core.pair import EncoderPair
from moco.interop.checkpoints import load_weights
from moco.interop.metadata import encoder_metadata
from moco.runtime.checkpoint import save_tensors
from tests.slow import long, slow

SMALLEST = 32
QUICK = {"byobnet": "test_byobnet", "mambaout": "test_mambaout", "nfnet": "test_nfnet"}
SLOWER = {"mobilenetv3": "lcnet_035", "mobilevit": "mobilevit_xxs", "vision_transformer_relpos": "test_vit_relpos"}
FAMILIES = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet_h1", "cait": "cait_xxs24_224", "coat": "coat_tiny",
    "convit": "convit_tiny", "convmixer": "convmixer_768_32", "convnext": "test_convnext", "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s", "cspnext": "cspnext_tiny",
    "davit": "davit_tiny", "deit": "deit_tiny_patch16_224", "densenet": "densenet121", "dla": "dla46x_c",
    "dpn": "dpn48b", "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb", "fasternet": "fasternet_t0", "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny", "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_small", "levit": "levit_128s",
    "lowformer": "lowformer_b0", "maxxvit": "test_coatnet", "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224", "mobilenetv5": "mobilenetv5_base", "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap", "nasnet": "nasnetalarge", "nest": "nest_tiny",
    "nextvit": "nextvit_small", "pit": "pit_ti_224", "pnasnet": "pnasnet5large", "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m", "rdnet": "rdnet_tiny", "regnet": "regnetx_002", "repghost": "repghostnet_050",
    "repvit": "repvit_m1", "res2net": "res2next50", "resnest": "resnest14d", "resnet": "test_resnet",
    "resnetv2": "resnetv2_18", "rexnet": "rexnet_100", "selecsls": "selecsls42", "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s", "shvit": "shvit_s1", "sknet": "skresnet18", "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256", "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_legacy_patch16_224", "tresnet": "tresnet_m",
    "twins": "twins_svt_small", "vgg": "vgg11", "visformer": "visformer_tiny", "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224", "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224", "volo": "volo_d1_224", "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception", "xception_aligned": "xception41p", "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip
"""The smallest network of each family."""
SIZES = {"byoanet": 256, "csatv2": 64, "efficientformer": 224, "inception_resnet_v2": 96, "inception_v3": 96,
         "inception_v4": 96}  # fmt: skip
"""Pixels of those that do not take 32: the smallest of 64, 96, 128, ... that they take."""
TOO_LARGE = {"deepseek_vit", "gemma4_vit"}
"""Families whose smallest network has more than 150 million parameters."""

every_family = pytest.mark.parametrize(
    ("family", "name"),
    [*QUICK.items(), *(slow(*item) for item in SLOWER.items()), *(long(*item) for item in FAMILIES.items())],
)


@every_family
def test_a_step_and_back(tmp_path: Path, family: str, name: str) -> None:
    """Its gradient is finite and reaches the first layer; what is read back gives the same features, bit for bit."""
    size, arch = SIZES.get(family, SMALLEST), f"timm:{name}"
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan(arch, feature_dim=8, image_size=size))
    encoder.require_size(size, "--image-size")
    encoder.set_bn_group_size(2)
    pair, queue, index = EncoderPair(encoder, "queue"), Queue(8, 8), torch.arange(4)
    optimizer = torch.optim.SGD(encoder.parameters(), 1e-6, fused=True)
    x_q, x_k = torch.randn(2, 4, 3, size, size)
    q, k = pair(x_q, x_k, pair.keys(x_k, 0), 0)
    torch.autograd.backward(info_nce(q, queue.read(k, index), 0.2).loss)
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert bool(gradients[0].any())
    torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1)  # deep ones of four images are as large as 10^8
    optimizer.step()
    pair.update(0.99)
    queue.write(q, k, index)

    mean = (0.5, 0.5, 0.5)
    described = {**encoder_metadata(encoder.plan, mean, mean, 1), "kind": "encoder"}
    save_tensors(tmp_path / "encoder.safetensors", encoder_tensors(encoder), described)
    read = load_weights(str(tmp_path / "encoder.safetensors"))
    with torch.no_grad():
        assert torch.equal(read.encoder.eval()(x_q), encoder.eval()(x_q))


@every_family
def test_a_bare_state_dict_of_timm(tmp_path: Path, family: str, name: str) -> None:
    """Is read by the network's name, at the size that it is made for, with and without its classifier."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "net.safetensors")
    read = load_weights(f"timm:{name}@{tmp_path / 'net.safetensors'}")
    own, theirs = read.encoder.backbone.state_dict(), model.state_dict()
    assert own
    assert all(torch.equal(value, theirs[key]) for key, value in own.items())
    assert read.encoder.plan.image_size == timm_config(name).input_size[-1]


@pytest.mark.slow
def test_no_family_is_forgotten() -> None:
    """There are no others in timm."""
    assert {*QUICK, *SLOWER, *FAMILIES, *TOO_LARGE} == set(timm.list_modules())
