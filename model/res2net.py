"""Res2Net backbone (Gao et al. 2019), the variant whose stem is three 3x3 convolutions.

Parameter names and their order are those of the ModelZoo trainer, so that its checkpoints load.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from model.architecture import STEM_SHRINK, Architecture

BATCH_MOMENTUM = 0.9
"""Share of the old moving statistics kept at an update, where the backbone learns."""

STEM_MOMENTUM = 0.1
"""The same for the original's frozen stem: the newest batch weighs 90 %."""


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, padding: int | None = None
) -> nn.Conv2d:
    """Convolution without bias; `padding` None pads as "same", else by so many pixels a side.

    The two differ for stride 2: "same" pads an even input on the right and bottom only.
    Weights are left at zero, `model.yolo.initialise` fills them.
    """
    if padding is None:
        mode, padding = "same", 0
    else:
        mode = "pad"
    return nn.Conv2d(
        inputs, outputs, kernel, stride, pad_mode=mode, padding=padding, weight_init="zeros"
    )


class StemNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of the batch, in training and in inference alike.

    The original's first two layers are built so. Unlike there, inference leaves the moving
    statistics (which nothing reads) alone, so that evaluating does not change what is saved.
    """

    def construct(self, x: Tensor) -> Tensor:
        """Normalise (B, C, h, w) over B, h and w."""
        if self.training:
            statistics = self.moving_mean, self.moving_variance
            return self.bn_train(x, self.gamma, self.beta, *statistics)[0]
        mean = x.mean((0, 2, 3), keep_dims=True)
        centred = x - mean
        variance = ops.square(centred).mean((0, 2, 3), keep_dims=True)
        scale = self.gamma.reshape(1, -1, 1, 1) * ops.rsqrt(variance + self.eps)
        return centred * scale + self.beta.reshape(1, -1, 1, 1)


def stem_norm(channels: int, architecture: Architecture) -> nn.BatchNorm2d:
    """Normalisation of the first two convolutions."""
    if architecture.backbone_bn == "batch":
        return nn.BatchNorm2d(channels, momentum=BATCH_MOMENTUM)
    return StemNorm(channels, momentum=STEM_MOMENTUM, use_batch_statistics=True)


def backbone_norm(channels: int, architecture: Architecture, *, trainable: bool) -> nn.BatchNorm2d:
    """Normalisation of the rest: by stored statistics, or by the batch's where it is to learn."""
    frozen = architecture.backbone_bn == "frozen"
    return nn.BatchNorm2d(
        channels,
        momentum=BATCH_MOMENTUM,
        affine=trainable,
        use_batch_statistics=False if frozen else None,
    )


class Bottle2neck(nn.Cell):
    """Res2Net block: 1x1, then 3x3 on `scale - 1` groups of channels one after another, then 1x1.

    In an ordinary block each group's input is added to the previous group's output. The first
    block of a stage does not add and may halve the sides.
    """

    def __init__(
        self,
        architecture: Architecture,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        first: bool,
        trainable: bool,
    ) -> None:
        """Build a block from `inputs` to `outputs` channels, the `first` of its stage or not."""
        super().__init__()
        scale, width = architecture.scale, architecture.split_width(outputs)

        def norm(channels: int) -> nn.BatchNorm2d:
            return backbone_norm(channels, architecture, trainable=trainable)

        self.conv1 = convolution(inputs, width * scale, 1)
        self.bn1 = norm(width * scale)
        self.convs = nn.CellList(
            [convolution(width, width, 3, stride, padding=1) for _ in range(scale - 1)]
        )
        self.bns = nn.CellList([norm(width) for _ in range(scale - 1)])
        self.conv3 = convolution(width * scale, outputs, 1)
        self.bn3 = norm(outputs)
        self.project = stride != 1 or inputs != outputs
        if self.project:
            self.conv_down_sample = convolution(inputs, outputs, 1)
            self.bn_down_sample = norm(outputs)
        self.scale = scale
        self.first = first
        self.stride = stride
        self.relu = nn.ReLU()
        self.split = ops.Split(axis=1, output_num=scale)
        self.concat = ops.Concat(axis=1)
        self.pool_last = nn.AvgPool2d(kernel_size=3, stride=stride, pad_mode="same")
        self.pool_shortcut = nn.MaxPool2d(kernel_size=2, stride=2, pad_mode="same")

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        groups = self.split(self.relu(self.bn1(self.conv1(x))))
        pieces = ()
        piece = None
        for i in range(self.scale - 1):
            source = groups[i] if self.first or i == 0 else piece + groups[i]
            piece = self.relu(self.bns[i](self.convs[i](source)))
            pieces += (piece,)
        last = groups[self.scale - 1]
        pieces += (self.pool_last(last) if self.first else last,)
        return self.relu(self.bn3(self.conv3(self.concat(pieces))) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.project:
            return x
        if self.stride != 1:
            x = self.pool_shortcut(x)
        return self.bn_down_sample(self.conv_down_sample(x))


class Res2Net(nn.Cell):
    """Stem and four stages; gives the features of strides 8, 16 and 32."""

    def __init__(self, architecture: Architecture) -> None:
        """Build the backbone; with `freeze_backbone` its stem and first stage do not learn."""
        super().__init__()
        width = architecture.res2net_in_channels[0]
        narrow = width // STEM_SHRINK
        self.frozen = architecture.freeze_backbone
        self.conv1_0 = convolution(3, narrow, 3, 2)
        self.bn1_0 = stem_norm(narrow, architecture)
        self.conv1_1 = convolution(narrow, narrow, 3)
        self.bn1_1 = stem_norm(narrow, architecture)
        self.conv1_2 = convolution(narrow, width, 3)
        self.bn1 = backbone_norm(width, architecture, trainable=not self.frozen)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="same")
        self.layer1 = _stage(architecture, 0)
        self.layer2 = _stage(architecture, 1)
        self.layer3 = _stage(architecture, 2)
        self.layer4 = _stage(architecture, 3)
        if self.frozen:
            for convolution_ in (self.conv1_0, self.conv1_1, self.conv1_2):
                convolution_.weight.requires_grad = False
            _freeze_convolutions(self.layer1)

    def construct(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, 3, S, S) to features of sides S/8, S/16 and S/32."""
        x = self.relu(self.bn1_0(self.conv1_0(image)))
        x = self.relu(self.bn1_1(self.conv1_1(x)))
        x = self.relu(self.bn1(self.conv1_2(x)))
        x = self.layer1(self.maxpool(x))
        if self.frozen:
            # Also keeps gradients from the stem's gamma and beta, which count as trainable.
            x = ops.stop_gradient(x)
        stride8 = self.layer2(x)
        stride16 = self.layer3(stride8)
        return stride8, stride16, self.layer4(stride16)


def _stage(architecture: Architecture, index: int) -> nn.SequentialCell:
    inputs = architecture.res2net_in_channels[index]
    outputs = architecture.res2net_out_channels[index]
    trainable = index > 0 or not architecture.freeze_backbone
    first = Bottle2neck(
        architecture,
        inputs,
        outputs,
        stride=1 if index == 0 else 2,
        first=True,
        trainable=trainable,
    )
    rest = [
        Bottle2neck(architecture, outputs, outputs, first=False, trainable=trainable)
        for _ in range(architecture.res2net_block[index] - 1)
    ]
    return nn.SequentialCell([first, *rest])


def _freeze_convolutions(cell: nn.Cell) -> None:
    for _, child in cell.cells_and_names():
        if isinstance(child, nn.Conv2d):
            child.weight.requires_grad = False
