"""YOLOv3 neck and heads on a Res2Net backbone (Redmon and Farhadi 2018).

Parameter names and their order are those of the ModelZoo trainer, so that its checkpoints load.
"""

from __future__ import annotations

import zlib

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from model.architecture import Architecture
from model.res2net import Res2Net, convolution

LEAK = 0.1
NECK_MOMENTUM = 0.9


class Neck(nn.SequentialCell):
    """Convolution, batch normalisation, LeakyReLU: the building stone of neck and heads."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        """Build one of `kernel` x `kernel`; the sides stay."""
        super().__init__(
            convolution(inputs, outputs, kernel),
            nn.BatchNorm2d(outputs, momentum=NECK_MOMENTUM, eps=1e-5),
            nn.LeakyReLU(LEAK),
        )


class HeadBlock(nn.Cell):
    """Six convolutions, narrow and wide in turn, and the one that predicts."""

    def __init__(self, inputs: int, width: int, out_channel: int) -> None:
        """Build a block of `width` (narrow) and twice that (wide) channels."""
        super().__init__()
        wide = 2 * width
        self.conv0 = Neck(inputs, width, 1)
        self.conv1 = Neck(width, wide, 3)
        self.conv2 = Neck(wide, width, 1)
        self.conv3 = Neck(width, wide, 3)
        self.conv4 = Neck(wide, width, 1)
        self.conv5 = Neck(width, wide, 3)
        self.conv6 = nn.Conv2d(
            wide, out_channel, 1, has_bias=True, weight_init="zeros", bias_init="zeros"
        )

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features for the next finer head (B, width, g, g) and the raw head."""
        x = self.conv2(self.conv1(self.conv0(x)))
        features = self.conv4(self.conv3(x))
        return features, self.conv6(self.conv5(features))


class FeatureMap(nn.Cell):
    """Backbone, then heads l, m, s; each but the first also sees the coarser one's features."""

    def __init__(self, architecture: Architecture) -> None:
        """Build backbone, neck and heads."""
        super().__init__()
        stage_s, stage_m, stage_l = architecture.res2net_out_channels[1:]
        width = architecture.head_widths
        out = architecture.out_channel
        self.backbone = Res2Net(architecture)
        self.backblock0 = HeadBlock(stage_l, width["l"], out)
        self.conv1 = Neck(width["l"], width["l"] // 2, 1)
        self.backblock1 = HeadBlock(width["l"] // 2 + stage_m, width["m"], out)
        self.conv2 = Neck(width["m"], width["m"] // 2, 1)
        self.backblock2 = HeadBlock(width["m"] // 2 + stage_s, width["s"], out)
        self.concat = ops.Concat(axis=1)

    def construct(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, 3, S, S) to the three raw heads (l, m, s)."""
        stride8, stride16, stride32 = self.backbone(image)
        features, raw_l = self.backblock0(stride32)
        features = self.concat((_doubled(self.conv1(features)), stride16))
        features, raw_m = self.backblock1(features)
        features = self.concat((_doubled(self.conv2(features)), stride8))
        _, raw_s = self.backblock2(features)
        return raw_l, raw_m, raw_s


class YoloV3(nn.Cell):
    """The whole network: an image in, three raw heads out.

    Output sides are S/32, S/16 and S/8; channel `a * (5 + C) + k` of a head is attribute k
    (x, y, log w, log h, objectness, classes; all before their activation) of anchor a.
    """

    def __init__(self, architecture: Architecture, seed: int = 1) -> None:
        """Build the network and fill it with random weights that depend on `seed` alone."""
        super().__init__()
        self.architecture = architecture
        self.feature_map = FeatureMap(architecture)
        initialise(self, seed)

    def construct(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map a normalised image (B, 3, S, S) to raw (l, m, s), each (B, 3 * (5 + C), g, g)."""
        return self.feature_map(image)


def initialise(network: nn.Cell, seed: int) -> None:
    """Draw the convolutions' weights and biases uniformly from +-1 / sqrt(fan in).

    (He et al. 2015 with slope sqrt(5), as the original.) Each value depends on `seed` and the
    parameter's name only: not on the order of building, nor on MindSpore's own generator.
    """
    for name, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            fan_in = int(np.prod(cell.weight.shape[1:]))
            _draw(cell.weight, f"{name}.weight", fan_in, seed)
            if cell.has_bias:
                _draw(cell.bias, f"{name}.bias", fan_in, seed)


def _draw(parameter: Parameter, name: str, fan_in: int, seed: int) -> None:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    bound = np.float32(fan_in**-0.5)
    values = generator.random(parameter.shape, dtype=np.float32)
    # In place: new arrays for 108 million numbers would take longer than drawing them.
    values *= 2
    values -= 1
    values *= bound
    parameter.set_data(Tensor.from_numpy(values))


def _doubled(x: Tensor) -> Tensor:
    """Repeat every pixel of (B, C, h, w) twice in both directions."""
    return ops.ResizeNearestNeighbor((2 * x.shape[2], 2 * x.shape[3]))(x)
