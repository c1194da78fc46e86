"""The networks of the zoo: those of torchvision, timm and transformers, and our own modules.

All have random weights. A builder imports what it needs when it is called, so that the names can be
listed without any of the packages.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from zoo_modules import CLASSES, MODULES, Inputs, images, vectors

INSTALL = "pip install --no-deps torchvision==0.28.0 timm==1.0.31 transformers==5.24.0"
PACKAGES = ("torchvision", "timm", "transformers")
_MORE = "safetensors huggingface_hub tokenizers regex pyyaml tqdm"
# a library of operators is gone when its object is
_kept: list[torch.library.Library] = []


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes
    ----------
    name : str
        Of its package and of itself.
    build : callable
        Makes it, with random weights.
    inputs : callable
        Random inputs from a generator: a tensor, a tuple of them, or keyword arguments.
    outputs : tuple of str
        Names of the layers whose channels are outputs. Empty: those with as many channels as there
        are classes.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Inputs]
    outputs: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """What it is from: a package, or ``modules``."""
        return self.name.partition("/")[0]


def entries() -> dict[str, Entry]:
    """All networks by name."""
    from zoo_timm import TIMM
    from zoo_transformers import TRANSFORMERS

    own = [Entry(f"modules/{name}", c.build, c.inputs, c.outputs) for name, c in MODULES.items()]
    return {entry.name: entry for entry in [*own, *TORCHVISION, *TIMM, *TRANSFORMERS]}


def need(package: str) -> Any:
    """Import a package that the networks are from, or leave with a line that says what to install.

    A torchvision that was compiled for another build of PyTorch has no operators; it can still make
    networks once the two that it looks for are declared.
    """
    try:
        if package != "torchvision":
            need("torchvision")
        return importlib.import_module(package)
    except ImportError as error:
        sys.exit(f"{error}: {INSTALL} {_MORE}")
    except RuntimeError as error:
        if _kept or "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return importlib.import_module(package)


def outputs_of(entry: Entry, network: nn.Module) -> list[nn.Module]:
    """The layers that make the outputs of a network."""
    if entry.outputs:
        return [network.get_submodule(name) for name in entry.outputs]
    return [
        module
        for module in network.modules()
        if getattr(module, "out_features", None) == CLASSES
        or getattr(module, "out_channels", None) == CLASSES
    ]


@torch.no_grad()
def randomise(network: nn.Module, given: Inputs, seed: int = 0) -> None:
    """Give every constant parameter random values near its own, and norms statistics, in place.

    As they are initialised, biases are zero, norms do nothing and layer scales hide their branches:
    much that is wrong would not show. The running statistics are those of some inputs, each off by
    a random bit: without them signals die or explode in deep networks.

    Parameters
    ----------
    network : nn.Module
    given : inputs of the network
    seed : int
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in network.modules() if torch.is_tensor(getattr(m, "running_mean", None))]
    # frozen norms have weights and biases that are no parameters
    frozen = [b for m in norms for n, b in m.named_buffers() if n in ("weight", "bias")]
    for parameter in (*network.parameters(), *frozen):
        if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
            value = float(parameter.flatten()[0])
            noise = torch.rand(parameter.shape, generator=generator)
            if value == 0:
                parameter.copy_(0.2 * noise - 0.1)
            else:
                parameter.copy_((value if abs(value) > 0.01 else 0.1) * (0.5 + noise))

    def measure(norm: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        x = arguments[0].transpose(0, 1).flatten(1)
        # the variance of a few equal values is rounding
        spread = x.var(1, correction=0).clamp_min(1e-3 * float(x.square().mean())) + 1e-6
        noise = torch.rand(2, len(spread), generator=generator)
        norm.running_mean.copy_(x.mean(1) + spread.sqrt() * (0.4 * noise[0] - 0.2))
        norm.running_var.copy_(spread * (0.5 + noise[1]))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        call(network, given)
    finally:
        for hook in hooks:
            hook.remove()


def make(entry: Entry) -> nn.Module:
    """A network in evaluation mode, the same at every call."""
    if entry.package in PACKAGES:
        need(entry.package)
    torch.manual_seed(0)
    network = entry.build().float().eval()
    randomise(network, inputs(entry, 0))
    return network


def inputs(entry: Entry, seed: int) -> Inputs:
    """Random inputs of a network."""
    return entry.inputs(torch.Generator().manual_seed(seed))


def call(network: nn.Module, given: Inputs) -> Any:
    """What a network says of inputs."""
    if isinstance(given, dict):
        return network(**given)
    return network(*given) if isinstance(given, tuple) else network(given)


# ---- torchvision --------------------------------------------------------------------------------


def _vision(name: str, size: int = 64, **options: Any) -> Entry:
    """A classifier of torchvision."""

    def build() -> nn.Module:
        return getattr(need("torchvision").models, name)(num_classes=CLASSES, **options)

    return Entry(f"torchvision/{name}", build, images(3, size))


def _segmentation(name: str) -> Entry:
    def build() -> nn.Module:
        make_one = getattr(need("torchvision").models.segmentation, name)
        return make_one(weights=None, weights_backbone=None, num_classes=CLASSES)

    return Entry(f"torchvision/{name}", build, images(3, 64))


def _video(name: str, *shape: int) -> Entry:
    def build() -> nn.Module:
        return getattr(need("torchvision").models.video, name)(num_classes=CLASSES)

    return Entry(f"torchvision/{name}", build, vectors(*shape))


class _Detector(nn.Module):
    """A backbone, and heads that every one of its maps goes through."""

    def __init__(self, backbone: nn.Module, *heads: nn.Module) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleList(heads)

    def forward(self, x: torch.Tensor) -> list[Any]:
        maps = list(self.backbone(x).values())
        return [head(maps) for head in self.heads]


def _pyramid(name: str, frozen: bool = False) -> nn.Module:
    """A backbone with a pyramid of maps; its norms are frozen where its weights are trained."""
    need("torchvision")
    from torchvision.models.detection import backbone_utils
    from torchvision.ops import FrozenBatchNorm2d

    norm = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    if name == "resnet18":
        return backbone_utils.resnet_fpn_backbone(
            backbone_name=name, weights=None, trainable_layers=5, norm_layer=norm
        )
    return backbone_utils.mobilenet_backbone(
        backbone_name=name, weights=None, fpn=True, trainable_layers=6, norm_layer=norm
    )


def _retinanet(frozen: bool) -> nn.Module:
    pyramid = _pyramid("resnet18", frozen)
    from torchvision.models.detection.retinanet import RetinaNetHead

    return _Detector(pyramid, RetinaNetHead(256, 3, CLASSES))


def _fcos() -> nn.Module:
    pyramid = _pyramid("resnet18")
    from torchvision.models.detection.fcos import FCOSHead

    return _Detector(pyramid, FCOSHead(256, 1, CLASSES, num_convs=2))


def _region_proposals() -> nn.Module:
    pyramid = _pyramid("mobilenet_v3_large")
    from torchvision.models.detection.rpn import RPNHead

    return _Detector(pyramid, RPNHead(256, 3))


def _ssdlite() -> nn.Module:
    need("torchvision")
    from torchvision.models import mobilenet_v3_large
    from torchvision.models.detection.ssdlite import SSDLiteHead, _mobilenet_extractor

    backbone = _mobilenet_extractor(mobilenet_v3_large(width_mult=0.5), 6, nn.BatchNorm2d)
    with torch.no_grad():
        widths = [m.shape[1] for m in backbone(torch.zeros(2, 3, 64, 64)).values()]
    return _Detector(backbone, SSDLiteHead(widths, [3] * len(widths), CLASSES, nn.BatchNorm2d))


def _small_vit() -> nn.Module:
    models = need("torchvision").models
    return models.VisionTransformer(
        64, 16, num_layers=4, num_heads=4, hidden_dim=96, mlp_dim=192, num_classes=CLASSES
    )


_RETINA = ("heads.0.classification_head.cls_logits", "heads.0.regression_head.bbox_reg")
TORCHVISION = [
    _vision("alexnet"),
    _vision("vgg11"),
    _vision("vgg16_bn"),
    _vision("resnet18"),
    _vision("resnet50"),
    _vision("wide_resnet50_2"),
    _vision("resnext50_32x4d"),
    _vision("densenet121"),
    _vision("squeezenet1_0"),
    _vision("squeezenet1_1"),
    _vision("googlenet", aux_logits=False, init_weights=False),
    _vision("inception_v3", 96, aux_logits=False, init_weights=False),
    _vision("mobilenet_v2"),
    _vision("mobilenet_v3_small"),
    _vision("mobilenet_v3_large"),
    _vision("shufflenet_v2_x0_5"),
    _vision("shufflenet_v2_x1_0"),
    _vision("mnasnet0_5"),
    _vision("mnasnet1_0"),
    _vision("efficientnet_b0"),
    _vision("efficientnet_v2_s"),
    _vision("regnet_y_400mf"),
    _vision("regnet_x_400mf"),
    _vision("convnext_tiny"),
    _vision("swin_t"),
    _vision("swin_v2_t"),
    _vision("maxvit_t", 224),
    Entry("torchvision/vit, 4 layers of 96", _small_vit, images(3, 64)),
    _segmentation("fcn_resnet50"),
    _segmentation("deeplabv3_resnet50"),
    _segmentation("deeplabv3_mobilenet_v3_large"),
    _segmentation("lraspp_mobilenet_v3_large"),
    _video("r3d_18", 1, 3, 4, 32, 32),
    _video("mc3_18", 1, 3, 4, 32, 32),
    _video("r2plus1d_18", 1, 3, 4, 32, 32),
    _video("s3d", 1, 3, 14, 224, 224),
    Entry(
        "torchvision/retinanet's maps, resnet18", lambda: _retinanet(False), images(3, 64), _RETINA
    ),
    Entry(
        "torchvision/retinanet's maps, resnet18, frozen norms",
        lambda: _retinanet(True),
        images(3, 64),
        _RETINA,
    ),
    Entry(
        "torchvision/fcos' maps, resnet18",
        _fcos,
        images(3, 64),
        (*_RETINA, "heads.0.regression_head.bbox_ctrness"),
    ),
    Entry(
        "torchvision/region proposals' maps, mobilenet_v3_large",
        _region_proposals,
        images(3, 64),
        ("heads.0.cls_logits", "heads.0.bbox_pred"),
    ),
    Entry("torchvision/ssdlite's maps, mobilenet_v3_large", _ssdlite, images(3, 64), ("heads.0",)),
]
