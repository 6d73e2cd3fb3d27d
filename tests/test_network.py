"""What a tiny network does in training and in inference."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from model.architecture import Architecture
from model.decode import Decoder, DetectionNetwork
from model.loss import DetectionLoss
from model.targets import make_targets, stack
from model.training_network import TrainingNetwork
from model.yolo import YoloV3

TINY = {
    "backbone_shape": (8, 8, 8, 16, 32),
    "res2net_block": (1, 1, 1, 1),
    "res2net_in_channels": (16, 16, 16, 32),
    "res2net_out_channels": (16, 16, 32, 32),
    "num_classes": 2,
}
SIDE = 64


@pytest.fixture(autouse=True)
def graph_mode() -> None:
    """Networks are compiled, as in training."""
    ms.set_context(mode=ms.GRAPH_MODE)


def image(seed: int = 0) -> Tensor:
    """Two normalised images of noise."""
    return Tensor(np.random.default_rng(seed).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32))


def batch(architecture: Architecture) -> list[Tensor]:
    """Two images and the targets of one object in each."""
    boxes = np.array([[5, 5, 40, 60, 1]])
    targets = stack([make_targets(boxes, SIDE, architecture) for _ in range(2)])
    return [image(), *(Tensor(array) for array in targets.arrays())]


def test_learning_from_scratch_reaches_the_first_convolution() -> None:
    """With nothing frozen every convolution of the network gets a finite gradient."""
    architecture = Architecture(**TINY, freeze_backbone=False, backbone_bn="batch")
    network = TrainingNetwork(YoloV3(architecture), DetectionLoss(architecture))
    weights = [p for p in network.trainable_params() if p.name.endswith("weight")]
    gradients = ops.grad(network, None, ms.ParameterTuple(weights), has_aux=True)(
        *batch(architecture)
    )[0]
    for parameter, gradient in zip(weights, gradients, strict=True):
        values = gradient.asnumpy()
        assert np.isfinite(values).all(), parameter.name
        assert values.any(), parameter.name


def test_inference_changes_no_parameter() -> None:
    """Evaluating leaves every saved value as it was, statistics of the stem included."""
    network = YoloV3(Architecture(**TINY))
    network.set_train(False)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    raws = network(image())
    assert [raw.shape for raw in raws] == [(2, 21, 2, 2), (2, 21, 4, 4), (2, 21, 8, 8)]
    assert all(np.array_equal(p.asnumpy(), before[p.name]) for p in network.get_parameters())


def test_the_detection_network_keeps_the_parameters_names() -> None:
    """A checkpoint of the network alone loads into the one that decodes, on both sides of it."""
    architecture = Architecture(**TINY)
    yolo = YoloV3(architecture)
    names = [p.name for p in yolo.get_parameters()]
    network = DetectionNetwork(yolo, Decoder(architecture))
    assert [p.name for p in network.get_parameters()] == names
    assert [head.shape for head in network(image())] == [
        (2, side, side, 3, 7) for side in (2, 4, 8)
    ]
