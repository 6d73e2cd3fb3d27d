"""YOLOv3-Res2Net50: network, targets, loss, decoding, data, training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.decode import DetectionNetwork
    from model.yolo import YoloV3

NETWORKS = ("yolov3_res2net50", "yolov3_res2net")
"""What `create_network` knows; the second is the name in the ModelZoo's hub file."""


def create_network(
    name: str,
    *,
    pretrained: str | Path = "",
    decoded: bool = True,
    seed: int = 1,
    **architecture: Any,
) -> DetectionNetwork | YoloV3:
    """Build a network by its name, in inference mode: what the ModelZoo's hub file offers.

    It maps normalised images (B, 3, S, S), S a multiple of 32, to the heads l, m, s of strides
    32, 16, 8: with `decoded` each (B, S/stride, S/stride, 3, 5 + C) of x, y, w, h relative to the
    image, objectness and classes; without it raw, (B, 3 * (5 + C), S/stride, S/stride).

    `pretrained` is a checkpoint file of this trainer or the original, or a step directory; without
    it weights are drawn from `seed`. All else are fields of `model.architecture.Architecture`,
    such as `num_classes`. Raises NotImplementedError for another name, TypeError for an unknown
    field, ValueError for a wrong one, and its subclass ConfigError for a file that does not fit.
    """
    if name not in NETWORKS:
        raise NotImplementedError(f"network {name!r}: known are {', '.join(NETWORKS)}")
    # Imported late: MindSpore takes seconds, and most of `model` does without it.
    from model.architecture import Architecture
    from model.decode import Decoder, DetectionNetwork
    from model.restore import load_weights
    from model.yolo import YoloV3

    described = Architecture(**architecture)
    network = YoloV3(described, seed)
    if pretrained:
        load_weights(Path(pretrained), network)
    network.set_train(False)
    return DetectionNetwork(network, Decoder(described)) if decoded else network
