"""What the network is made of: depths, widths, classes, anchors. Plain values, no MindSpore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

HEADS = ("l", "m", "s")
"""The three heads in the order of outputs and targets: large, medium, small objects."""

STRIDES = {"l": 32, "m": 16, "s": 8}
"""Pixels of the input per cell of a head."""

ANCHORS_PER_HEAD = 3
STEM_SHRINK = 2

DEFAULT_ANCHORS = (
    (10, 13), (16, 30), (33, 23),
    (30, 61), (62, 45), (59, 119),
    (116, 90), (156, 198), (373, 326),
)  # fmt: skip

BackboneNorm = Literal["frozen", "batch"]


def check_side(side: int) -> int:
    """Return `side` (pixels) if it is a usable side of the square input, else raise ValueError."""
    coarsest = STRIDES["l"]
    if side <= 0 or side % coarsest:
        raise ValueError(f"input side {side}: must be a positive multiple of {coarsest}")
    return side


@dataclass(frozen=True)
class Architecture:
    """One YOLOv3-Res2Net network.

    The `res2net_*` lists have one entry per stage (four): number of blocks, channels in, channels
    out. `backbone_shape` has five; its last must be the last stage's output, and its entries -2,
    -3 and -4 are the widths of heads l, m and s (the first is not used; the original has it too).
    `anchors` are nine (width, height) pairs in pixels of the network input: three for head s,
    then m, then l.

    `freeze_backbone` keeps stem and first stage as they were loaded; `backbone_bn="frozen"`
    normalises the backbone by its stored statistics, `"batch"` by those of each batch.
    Learning without a pretrained backbone needs `freeze_backbone=False, backbone_bn="batch"`.
    """

    backbone_shape: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    res2net_block: tuple[int, ...] = (3, 4, 6, 3)
    res2net_in_channels: tuple[int, ...] = (64, 256, 512, 1024)
    res2net_out_channels: tuple[int, ...] = (256, 512, 1024, 2048)
    num_classes: int = 80
    base_width: int = 26
    scale: int = 4
    anchors: tuple[tuple[float, float], ...] = DEFAULT_ANCHORS
    ignore_threshold: float = 0.7
    freeze_backbone: bool = True
    backbone_bn: BackboneNorm = "frozen"

    def __post_init__(self) -> None:
        """Turn lists into tuples and refuse what cannot be built."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, field.name, _frozen(value))
        self._check_numbers()
        self._check_lengths()
        self._check_channels()
        self._check_anchors()

    @property
    def attributes(self) -> int:
        """Numbers predicted per anchor: x, y, w, h, objectness and one per class."""
        return 5 + self.num_classes

    @property
    def out_channel(self) -> int:
        """Channels of each head's output."""
        return ANCHORS_PER_HEAD * self.attributes

    @property
    def head_widths(self) -> dict[str, int]:
        """Channels of the narrow convolutions of each head."""
        return {head: self.backbone_shape[-2 - i] for i, head in enumerate(HEADS)}

    def head_anchors(self, head: str) -> tuple[tuple[float, float], ...]:
        """The three (width, height) anchors of one head, in pixels."""
        first = {"s": 0, "m": 3, "l": 6}[head]
        return self.anchors[first : first + ANCHORS_PER_HEAD]

    def split_width(self, out_channels: int) -> int:
        """Channels of one of the `scale` groups in a block that ends in `out_channels`."""
        return int(out_channels // 4 * (self.base_width / 64.0))

    def _check_numbers(self) -> None:
        _require(self.num_classes >= 1, "num_classes", self.num_classes, "at least 1")
        _require(self.base_width >= 1, "base_width", self.base_width, "at least 1")
        _require(self.scale >= 2, "scale", self.scale, "at least 2")
        _require(
            0.0 < self.ignore_threshold <= 1.0,
            "ignore_threshold", self.ignore_threshold, "above 0 and at most 1",
        )  # fmt: skip
        _require(
            self.backbone_bn in ("frozen", "batch"),
            "backbone_bn", self.backbone_bn, "frozen or batch",
        )  # fmt: skip

    def _check_lengths(self) -> None:
        lengths = {
            "backbone_shape": 5,
            "res2net_block": 4,
            "res2net_in_channels": 4,
            "res2net_out_channels": 4,
        }
        for name, length in lengths.items():
            value = getattr(self, name)
            good = len(value) == length and all(isinstance(n, int) and n >= 1 for n in value)
            _require(good, name, value, f"{length} positive integers")

    def _check_channels(self) -> None:
        inputs, outputs = self.res2net_in_channels, self.res2net_out_channels
        _require(
            inputs[0] % STEM_SHRINK == 0,
            "res2net_in_channels", inputs, "led by an even number, the stem's width",
        )  # fmt: skip
        _require(
            inputs[1:] == outputs[:-1],
            "res2net_in_channels", inputs, f"in[i] = res2net_out_channels[i-1], here {outputs}",
        )  # fmt: skip
        _require(
            self.backbone_shape[-1] == outputs[-1],
            "backbone_shape", self.backbone_shape, f"ended by {outputs[-1]}, what stage 4 gives",
        )  # fmt: skip
        _require(
            all(width % 2 == 0 for width in self.backbone_shape[-3:-1]),
            "backbone_shape", self.backbone_shape, "even in its third and fourth entry",
        )  # fmt: skip
        _require(
            all(self.split_width(out) >= 1 for out in outputs),
            "res2net_out_channels", outputs, f"wide enough for base_width {self.base_width}",
        )  # fmt: skip

    def _check_anchors(self) -> None:
        good = len(self.anchors) == len(HEADS) * ANCHORS_PER_HEAD and all(
            isinstance(anchor, tuple) and len(anchor) == 2 and min(anchor) > 0
            for anchor in self.anchors
        )
        _require(good, "anchors", self.anchors, "nine pairs (width, height) of positive pixels")


def _frozen(value: Sequence[object]) -> tuple[object, ...]:
    return tuple(_frozen(item) if isinstance(item, list | tuple) else item for item in value)


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}: {value!r} must be {expected}")


FULL = Architecture()
"""The original's network: Res2Net50 (26w x 4s), 80 classes, 108 million parameters."""

SMALL = Architecture(
    backbone_shape=(32, 64, 128, 256, 512),
    res2net_block=(1, 1, 1, 1),
    res2net_in_channels=(64, 64, 128, 256),
    res2net_out_channels=(64, 128, 256, 512),
    num_classes=4,
)
"""A network of 5.8 million parameters with every part of the full one, for tests."""
