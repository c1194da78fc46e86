"""Networks of timm: the smallest of every family, of transformers often a few layers."""

from __future__ import annotations

from typing import Any

from torch import nn
from zoo_modules import CLASSES, images
from zoo_networks import Entry, need


def _timm(name: str, size: int = 64, **options: Any) -> Entry:
    """A network of timm, for images of a size; options are the model's."""

    def build() -> nn.Module:
        make_one = need("timm").create_model
        return make_one(name, pretrained=False, num_classes=CLASSES, **options)

    said = "".join(f", {key}={value}" for key, value in options.items() if key != "img_size")
    return Entry(f"timm/{name}{said}", build, images(3, size))


TIMM = [
    # convolutions
    _timm("resnet10t"),
    _timm("resnetv2_18"),
    _timm("resnetv2_50x1_bit"),
    _timm("resnetaa50"),
    _timm("resnetblur50"),
    _timm("nf_resnet26"),
    _timm("nf_regnet_b0"),
    _timm("eca_nfnet_l0"),
    _timm("nfnet_l0"),
    _timm("res2net50_14w_8s"),
    _timm("resnest14d"),
    _timm("skresnet18"),
    _timm("seresnet18"),
    _timm("ecaresnet26t"),
    _timm("gcresnext26ts"),
    _timm("gernet_s"),
    _timm("cspresnet50"),
    _timm("cspdarknet53"),
    _timm("darknet17"),
    _timm("cs3darknet_focus_s"),
    _timm("dla34"),
    _timm("dla46x_c"),
    _timm("dpn48b"),
    _timm("hrnet_w18_small"),
    _timm("rexnet_100"),
    _timm("ghostnet_050"),
    _timm("ghostnetv2_100"),
    _timm("repghostnet_050"),
    _timm("mobilenetv4_conv_small_035"),
    _timm("mobilenetv4_hybrid_medium_075"),
    _timm("fasternet_t0"),
    _timm("starnet_s050"),
    _timm("repvgg_a0"),
    _timm("mobileone_s0"),
    _timm("repvit_m0_9"),
    _timm("fastvit_t8", 128),
    _timm("efficientnet_lite0"),
    _timm("efficientnet_es"),
    _timm("tinynet_e"),
    _timm("mixnet_s"),
    _timm("hardcorenas_a"),
    _timm("lcnet_035"),
    _timm("fbnetc_100"),
    _timm("spnasnet_100"),
    _timm("semnasnet_050"),
    _timm("selecsls42"),
    _timm("ese_vovnet19b_slim_dw"),
    _timm("hgnetv2_b0"),
    _timm("xception41"),
    _timm("inception_v4", 96),
    _timm("inception_next_atto"),
    _timm("convnext_atto"),
    _timm("convnextv2_atto"),
    _timm("regnety_002"),
    _timm("regnetz_005"),
    _timm("rdnet_tiny"),
    _timm("mambaout_femto"),
    _timm("focalnet_tiny_srf"),
    # attention and mixing on maps
    _timm("poolformerv2_s12"),
    _timm("caformer_s18"),
    _timm("convformer_s18"),
    _timm("mobilevit_xxs"),
    _timm("mobilevitv2_050"),
    _timm("edgenext_xx_small"),
    _timm("efficientformer_l1", 224),
    _timm("efficientformerv2_s0", 224),
    _timm("efficientvit_b0"),
    _timm("efficientvit_m0", 224),
    _timm("swiftformer_xs"),
    _timm("shvit_s1"),
    _timm("nextvit_small"),
    _timm("visformer_tiny", 224),
    _timm("lambda_resnet26t", 128),
    _timm("botnet26t_256", 256),
    _timm("halonet26t", 128),
    _timm("coatnet_pico_rw_224", 224),
    _timm("maxvit_nano_rw_256", 256),
    _timm("maxvit_rmlp_pico_rw_256", 256),
    _timm("davit_tiny", 64),
    _timm("gcvit_xxtiny", 224),
    # tokens
    _timm("mixer_s32_224", 224),
    _timm("resmlp_12_224", 224),
    _timm("gmlp_ti16_224", 224),
    _timm("vit_tiny_patch16_224", 64, img_size=64, depth=6),
    _timm("vit_small_patch16_dinov3", 64, img_size=64, depth=4),
    _timm("deit_tiny_distilled_patch16_224", 64, img_size=64, depth=6),
    _timm("cait_xxs24_224", 64, img_size=64, depth=6),
    _timm("xcit_nano_12_p16_224", 64, depth=4),
    _timm("crossvit_9_240", 240),
    _timm("levit_128s", 224),
    _timm("pit_ti_224", 224),
    _timm("pvt_v2_b0", 64),
    _timm("twins_svt_small", 64),
    _timm("twins_pcpvt_small", 224),
    _timm("swin_tiny_patch4_window7_224", 224, depths=(1, 1, 2, 1)),
    _timm("swinv2_tiny_window8_256", 256, depths=(1, 1, 2, 1)),
    _timm("coat_lite_tiny", 224),
    _timm("convit_tiny", 224, depth=12),
    _timm("volo_d1_224", 224),
    _timm("beit_base_patch16_224", 224, embed_dim=96, depth=4, num_heads=4),
    _timm("eva02_tiny_patch14_224", 56, img_size=56, depth=6),
    _timm("tnt_s_patch16_224", 224, depth=4),
    _timm("sequencer2d_s", 224),
    _timm("hiera_tiny_224", 224),
    _timm("nest_tiny", 224),
    _timm("mvitv2_tiny", 224),
    _timm("tiny_vit_5m_224", 224),
]
