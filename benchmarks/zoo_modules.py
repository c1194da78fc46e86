"""Modules as people write them, each with one thing in it that structured pruning can get wrong.

They need nothing but PyTorch, so that tests can run them too. ``MODULES`` has them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Tensor = torch.Tensor
# one tensor; several: a tuple; keyword arguments: a dictionary
Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]

CLASSES = 11


@dataclass(frozen=True)
class Case:
    """How a module is made, what it takes, and which of its layers make its outputs.

    Attributes
    ----------
    build : callable
    inputs : callable
        Random inputs of a batch of two, from a generator.
    outputs : tuple of str
        Names of the layers whose channels are outputs of the network.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Inputs]
    outputs: tuple[str, ...]


def images(
    channels: int = 3, size: int = 16, batch: int = 2
) -> Callable[[torch.Generator], Tensor]:
    """Makes (batch, channels, size, size) random images."""
    return lambda generator: torch.randn(batch, channels, size, size, generator=generator)


def vectors(*shape: int) -> Callable[[torch.Generator], Tensor]:
    """Makes random tensors of a shape."""
    return lambda generator: torch.randn(*shape, generator=generator)


def tokens(length: int = 12, vocabulary: int = 64) -> Callable[[torch.Generator], Tensor]:
    """Makes (2, length) random tokens."""
    return lambda generator: torch.randint(vocabulary, (2, length), generator=generator)


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Module:
    """A convolution with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _Classifier(nn.Module):
    """A body, the mean over places, a linear layer."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x.flatten(2).mean(2))


# ---- concatenation ------------------------------------------------------------------------------


class _TwoBranches(nn.Module):
    """Branches of different widths, concatenated, read by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16)
        self.left, self.right = _conv(16, 12), _conv(16, 20, kernel=1)
        self.merge = _conv(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.merge(torch.cat([self.left(x), self.right(x)], 1))


class _BoxHeads(nn.Module):
    """The output is what two heads say, one after the other."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.stem, self.tower = _conv(3, 16), _conv(16, 24)
        self.cls, self.box = nn.Conv2d(24, 3, 3, padding=1), nn.Conv2d(24, 4, 3, padding=1)
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        t = self.tower(self.stem(x))
        y = torch.cat([self.cls(t), self.box(t)], 1)
        return y.flatten(1) if self.flat else y


class _Dense(nn.Module):
    """Layers that read all that comes before them."""

    def __init__(self, depth: int = 4, growth: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(16 + k * growth),
                nn.ReLU(),
                nn.Conv2d(16 + k * growth, growth, 3, padding=1, bias=False),
            )
            for k in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat((x, layer(x)), dim=1)
        return x


class _UNet(nn.Module):
    """Down, up by a transposed convolution, and skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _conv(3, 12), _conv(12, 24), _conv(24, 32)
        self.up2 = nn.ConvTranspose2d(32, 24, 2, stride=2)
        self.merge2 = _conv(48, 24)
        self.up1 = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.merge1 = _conv(24, 12)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.bottom(F.max_pool2d(two, 2))
        x = self.merge2(torch.cat([two, self.up2(x)], 1))
        x = self.merge1(torch.cat([self.up1(x), one], 1))
        return self.head(x)


# ---- layout -------------------------------------------------------------------------------------


class _ChannelsLastHead(nn.Module):
    """Places first, channels last, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(3, 16, stride=2), _conv(16, 24, stride=2))
        self.hidden, self.head = nn.Linear(24 * 16, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).permute(0, 2, 3, 1).flatten(1)
        return self.head(F.relu(self.hidden(x)))


class _FlattenHead(nn.Module):
    """Channels first, flattened into a linear layer by view."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(3, 16, stride=2), _conv(16, 24, stride=2))
        self.hidden, self.head = nn.Linear(24 * 16, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(F.relu(self.hidden(x.view(x.size(0), -1))))


class _PixelShuffle(nn.Module):
    """Super-resolution: channels become places, with a global skip."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1)
        )
        self.expand = nn.Conv2d(24, 16 * scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.body(x)
        return self.last(F.relu(self.shuffle(self.expand(x))))


class _SpaceToDepth(nn.Module):
    """Places become channels before the second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _conv(3, 8), _conv(32, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.pixel_unshuffle(self.first(x), 2))


class _ShuffledGroups(nn.Module):
    """Grouped convolutions with their channels shuffled between them."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        self.first = _conv(3, 16)
        self.reduce = _conv(16, 32, kernel=1, groups=groups)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.expand = nn.Conv2d(32, 16, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.reduce(x)
        n, c, h, w = y.shape
        y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.relu(x + self.expand(self.depthwise(y)))


class _Split(nn.Module):
    """Gated linear units over channels: one half times the sigmoid of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(16, 48, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.one(x), dim=1)
        a, b = self.two(x).chunk(2, dim=1)
        return a * torch.sigmoid(b)


class _HalfInstance(nn.Module):
    """InstanceNorm on one half of the channels, nothing on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.InstanceNorm2d(16, affine=True)
        self.two = _conv(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.one(x), [16, 16], dim=1)
        return self.two(F.leaky_relu(torch.cat([self.norm(a), b], dim=1), 0.2))


class _Sliced(nn.Module):
    """The first channels pass by, the others are convolved (partial convolution)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.partial, self.mix = (
            _conv(3, 24),
            nn.Conv2d(6, 6, 3, padding=1),
            _conv(24, 24),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.mix(torch.cat([self.partial(x[:, :6]), x[:, 6:]], 1))


# ---- zero is not mapped to zero ------------------------------------------------------------------


class _Gate(nn.Module):
    """A channel goes through a sigmoid before it is read: a zero becomes one half."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.sigmoid(self.one(x)))


class _Shifted(nn.Module):
    """What a layer reads is its input plus one, times a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.scale, self.shift = (
            nn.Parameter(torch.ones(16, 1, 1)),
            nn.Parameter(torch.ones(16, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.one(x) * self.scale + self.shift))


class _SqueezeExcite(nn.Module):
    """A convolution whose channels are weighed by what their means say."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = _conv(3, 16), _conv(16, 32)
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.last = _conv(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(self.stem(x))
        gate = self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.last(x * torch.sigmoid(gate))


class _EfficientAttention(nn.Module):
    """A convolution along the channels weighs them: neighbours matter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv1d(2, 16, 5, padding=2), nn.Conv1d(16, 24, 5, padding=2)
        self.along = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.last = nn.Conv1d(24, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.wide(F.relu(self.stem(x))))
        gate = self.along(x.mean(2).unsqueeze(1)).squeeze(1)
        return self.last(x * torch.sigmoid(gate).unsqueeze(2))


# ---- norms --------------------------------------------------------------------------------------


def _normed(norm: Callable[[], nn.Module], activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        norm(),
        activation(),
        nn.Conv2d(24, 16, 3, padding=1),
        nn.ReLU(),
    )


class _LayerNorm(nn.Module):
    """Mean and variance are over the channels of every place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.LayerNorm(24)
        self.hidden, self.two = nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).permute(0, 2, 3, 1)
        x = x + self.two(F.gelu(self.hidden(self.norm(x))))
        return x.permute(0, 3, 1, 2)


class _WeightNorm(nn.Module):
    """Weights that are computed from their lengths and directions."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.one = norm(nn.Conv2d(3, 24, 3, padding=1))
        self.two = norm(nn.Conv2d(24, 16, 3, padding=1), dim=0)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(x))))


class _SpectralNorm(nn.Module):
    """Weights that are divided by their largest singular value."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.one, self.two = norm(nn.Linear(20, 32)), norm(nn.Linear(32, 24))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.relu(self.one(x)))))


# ---- own layers ---------------------------------------------------------------------------------


class _GainConv(nn.Conv2d):
    """A convolution with a gain of its own for every output channel."""

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.gain, self.bias)


class _Gained(nn.Module):
    """Two convolutions with gains."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = _GainConv(3, 24, 3, padding=1), _GainConv(24, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(x))))


class _LayerScale(nn.Module):
    """A block as ConvNeXt's, with a learned scale for every channel of the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, stride=2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.hidden, self.back = nn.Conv2d(16, 48, 1), nn.Conv2d(48, 16, 1)
        self.gamma = nn.Parameter(0.1 * torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.back(F.gelu(self.hidden(self.depthwise(x))))
        return x + self.gamma.view(1, -1, 1, 1) * y


class _Functional(nn.Module):
    """No layers at all: parameters and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(24, 3, 3, 3) / 5)
        self.second = nn.Parameter(torch.randn(16, 24, 1, 1) / 5)
        self.bias = nn.Parameter(torch.randn(24) / 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.relu(F.conv2d(x, self.first, self.bias, padding=1)), self.second)


class _Shared(nn.Module):
    """One convolution applied twice, and one norm for each time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 20, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(20) for _ in range(2))
        self.last = nn.Conv2d(20, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm in self.norms:
            x = F.relu(norm(self.block(x)))
        return self.last(x)


class _Siamese(nn.Module):
    """Two inputs, one encoder, the difference of what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(_conv(3, 16, stride=2), _conv(16, 24, stride=2))
        self.project, self.head = nn.Linear(24, 20), nn.Linear(20, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        one, two = (self.project(self.encoder(x).mean((2, 3))) for x in (left, right))
        return self.head((one - two).abs())


class _TwoModes(nn.Module):
    """Keyword inputs of two kinds, two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.read = _conv(3, 24, stride=2), nn.Linear(10, 24)
        self.mix = nn.Linear(24, 32)
        self.label, self.score = nn.Linear(32, CLASSES), nn.Linear(32, 1)

    def forward(self, image: Tensor, features: Tensor) -> dict[str, Tensor]:
        x = self.see(image).mean((2, 3)) + F.relu(self.read(features))
        x = F.relu(self.mix(x))
        return {"label": self.label(x), "score": self.score(x)}


# ---- sequences ----------------------------------------------------------------------------------


class _GatedMlp(nn.Module):
    """Two layers into one product, the third reads it, with a residual and RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(20, 32), nn.RMSNorm(32)
        self.gate, self.up = nn.Linear(32, 64, bias=False), nn.Linear(32, 64, bias=False)
        self.down, self.head = nn.Linear(64, 32, bias=False), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.norm(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


class _GroupedQueryAttention(nn.Module):
    """Eight heads that ask, two that answer."""

    def __init__(self, heads: int = 8, shared: int = 2, size: int = 8) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.head_dim = heads, shared, size
        self.num_key_value_groups = heads // shared
        self.first, self.norm = nn.Linear(20, 32), nn.LayerNorm(32)
        self.q_proj = nn.Linear(32, heads * size, bias=False)
        self.k_proj = nn.Linear(32, shared * size, bias=False)
        self.v_proj = nn.Linear(32, shared * size, bias=False)
        self.o_proj, self.head = nn.Linear(heads * size, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y, (n, t, _) = self.norm(x), x.shape
        q, k, v = (
            project(y).view(n, t, -1, self.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = (w.repeat_interleave(self.num_key_value_groups, dim=1) for w in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x + self.o_proj(y.transpose(1, 2).reshape(n, t, -1)))


class _TiedLanguageModel(nn.Module):
    """Embedding, one attention with its three maps in one layer, and the embedding as output."""

    def __init__(self, words: int = 64, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.embedding, self.places = nn.Embedding(words, width), nn.Embedding(32, width)
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.back = nn.Linear(width, width)
        self.hidden, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.last = nn.LayerNorm(width)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words) + self.places(torch.arange(words.shape[1], device=words.device))
        n, t, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.back((weights @ v).transpose(1, 2).reshape(n, t, -1))
        x = x + self.out(F.gelu(self.hidden(x)))
        return F.linear(self.last(x), self.embedding.weight)


class _Recurrent(nn.Module):
    """A convolution's channels are read by a recurrent layer, and its states by a linear one."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], layers: int, both: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 24, 3, padding=1)
        self.rnn = kind(24, 20, num_layers=layers, batch_first=True, bidirectional=both)
        self.hidden, self.head = nn.Linear(40 if both else 20, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).transpose(1, 2)
        x, _ = self.rnn(x)
        return self.head(F.relu(self.hidden(x[:, -1])))


class _Attention(nn.Module):
    """PyTorch's own attention between layers that can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.hidden, self.back = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.back(F.relu(self.hidden(x)))
        return self.head(x.mean(1))


class _Encoder(nn.Module):
    """PyTorch's own encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.first(x)).mean(1))


class _Routed(nn.Module):
    """Every sample goes through the expert that it asks for most."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.first, self.router = nn.Linear(20, 24), nn.Linear(24, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 24)) for _ in range(experts)
        )
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        gates = self.router(x).softmax(-1)
        each = torch.stack([expert(x) for expert in self.experts], 1)
        return self.head(x + (gates.unsqueeze(-1) * each).sum(1))


class _Residual(nn.Module):
    """Two residual blocks, the second with a projection and a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16)
        self.one = nn.Sequential(_conv(16, 24), nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.two = nn.Sequential(
            _conv(16, 24, stride=2), nn.Conv2d(24, 32, 3, padding=1), nn.BatchNorm2d(32)
        )
        self.short = nn.Conv2d(16, 32, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.one(x))
        return F.relu(self.short(x) + self.two(x))


class _Autoencoder(nn.Module):
    """Down to a code of its own width, and up again by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(_conv(3, 16, stride=2), _conv(16, 24, stride=2))
        self.mean, self.spread = nn.Linear(24 * 16, 8), nn.Linear(24 * 16, 8)
        self.grow, self.up = nn.Linear(8, 24 * 16), _conv(24, 16)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = torch.flatten(self.down(x), 1)
        mean, spread = self.mean(code), self.spread(code)
        y = self.grow(mean).unflatten(1, (24, 4, 4))
        y = self.up(F.interpolate(y, scale_factor=2, mode="nearest"))
        y = self.last(F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False))
        return y, mean, spread


class _Volumes(nn.Module):
    """Convolutions over volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv3d(1, 12, 3, padding=1), nn.BatchNorm3d(12)
        self.two, self.head = nn.Conv3d(12, 20, 3, padding=1), nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.norm(self.one(x))), 2)
        return self.head(F.relu(self.two(x)).mean((2, 3, 4)))


class _Waves(nn.Module):
    """Dilated convolutions over time with gates, residuals and skips, as WaveNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 16, 1)
        self.filters = nn.ModuleList(
            nn.Conv1d(16, 16, 3, padding=2**k, dilation=2**k) for k in range(3)
        )
        self.gates = nn.ModuleList(
            nn.Conv1d(16, 16, 3, padding=2**k, dilation=2**k) for k in range(3)
        )
        self.back = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.skip = nn.ModuleList(nn.Conv1d(16, 24, 1) for _ in range(3))
        self.last = nn.Conv1d(24, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), 0
        for filt, gate, back, skip in zip(
            self.filters, self.gates, self.back, self.skip, strict=True
        ):
            y = torch.tanh(filt(x)) * torch.sigmoid(gate(x))
            x, total = x + back(y), total + skip(y)
        return self.last(F.relu(total))


def _classified(body: Callable[[], nn.Module], width: int, inputs: Any = None) -> Case:
    return Case(lambda: _Classifier(body(), width), inputs or images(), ("head",))


def _pair(generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(images()(generator) for _ in range(2))


def _modes(generator: torch.Generator) -> dict[str, Tensor]:
    return {"image": images()(generator), "features": vectors(2, 10)(generator)}


MODULES: dict[str, Case] = {
    "cat": _classified(_TwoBranches, 16),
    "cat-of-heads": Case(lambda: _BoxHeads(False), images(), ("cls", "box")),
    "cat-of-heads-flat": Case(lambda: _BoxHeads(True), images(), ("cls", "box")),
    "dense-cat": _classified(_Dense, 48),
    "unet": Case(_UNet, images(), ("head",)),
    "residual": _classified(_Residual, 32),
    "autoencoder": Case(_Autoencoder, images(), ("last", "mean", "spread")),
    "permute-flatten": Case(_ChannelsLastHead, images(), ("head",)),
    "view-flatten": Case(_FlattenHead, images(), ("head",)),
    "pixel-shuffle": Case(_PixelShuffle, images(), ("last",)),
    "pixel-unshuffle": _classified(_SpaceToDepth, 24),
    "grouped-shuffle": _classified(_ShuffledGroups, 16),
    "glu-chunk": _classified(_Split, 24),
    "half-instance": _classified(_HalfInstance, 16),
    "partial-conv": _classified(_Sliced, 24),
    "sigmoid-before-reader": _classified(_Gate, 16),
    "scale-and-shift": _classified(_Shifted, 16),
    "squeeze-excite": _classified(_SqueezeExcite, 16),
    "conv1d-eca": _classified(_EfficientAttention, 16, vectors(2, 2, 32)),
    "conv1d-wavenet": Case(_Waves, vectors(2, 1, 32), ("last",)),
    "conv3d": Case(_Volumes, vectors(2, 1, 8, 8, 8), ("head",)),
    "batchnorm-not-affine": _classified(
        lambda: _normed(lambda: nn.BatchNorm2d(24, affine=False), nn.ReLU), 16
    ),
    "groupnorm": _classified(lambda: _normed(lambda: nn.GroupNorm(4, 24), nn.SiLU), 16),
    "instancenorm": _classified(
        lambda: _normed(lambda: nn.InstanceNorm2d(24, affine=True), nn.ReLU), 16
    ),
    "prelu": _classified(lambda: _normed(lambda: nn.BatchNorm2d(24), lambda: nn.PReLU(24)), 16),
    "layernorm": _classified(_LayerNorm, 24),
    "weight-norm": _classified(_WeightNorm, 16),
    "spectral-norm": Case(_SpectralNorm, vectors(2, 20), ("head",)),
    "conv-with-gain": _classified(_Gained, 16),
    "layer-scale": _classified(_LayerScale, 16),
    "functional": _classified(_Functional, 16),
    "shared-twice": _classified(_Shared, 16),
    "siamese": Case(_Siamese, _pair, ("head",)),
    "keyword-inputs": Case(_TwoModes, _modes, ("label", "score")),
    "gated-mlp": Case(_GatedMlp, vectors(2, 6, 20), ("head",)),
    "grouped-query-attention": Case(_GroupedQueryAttention, vectors(2, 6, 20), ("head",)),
    "tied-language-model": Case(_TiedLanguageModel, tokens(), ("embedding",)),
    "lstm": Case(lambda: _Recurrent(nn.LSTM, 1, False), vectors(2, 4, 12), ("head",)),
    "gru-both-ways": Case(lambda: _Recurrent(nn.GRU, 2, True), vectors(2, 4, 12), ("head",)),
    "multihead-attention": Case(_Attention, vectors(2, 6, 20), ("head",)),
    "transformer-encoder": Case(_Encoder, vectors(2, 6, 20), ("head",)),
    "mixture-of-experts": Case(_Routed, vectors(2, 20), ("head", "router")),
}
