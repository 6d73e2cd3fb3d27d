"""The network together with its loss, as training sees it, and the optimizer's groups."""

from __future__ import annotations

from typing import Any

from mindspore import Parameter, Tensor, nn

from model.loss import DetectionLoss
from model.yolo import YoloV3

UNDECAYED = (".bias", ".gamma", ".beta")
"""Ends of the names of parameters that weight decay leaves alone."""


class TrainingNetwork(nn.Cell):
    """Image and targets in, loss out.

    The child's name gives parameters the prefix `yolo_network.` that training checkpoints of the
    ModelZoo trainer have.
    """

    def __init__(self, yolo: YoloV3, loss: DetectionLoss) -> None:
        """Join network and loss; sets the network to training."""
        super().__init__()
        self.yolo_network = yolo
        self.loss = loss
        self.set_train()

    def construct(
        self,
        image: Tensor,
        y_true_l: Tensor,
        y_true_m: Tensor,
        y_true_s: Tensor,
        gt_l: Tensor,
        gt_m: Tensor,
        gt_s: Tensor,
    ) -> Tensor:
        """Return the scalar loss of a batch (shapes: `model.yolo`, `model.loss`)."""
        raw_l, raw_m, raw_s = self.yolo_network(image)
        return self.loss(raw_l, raw_m, raw_s, y_true_l, y_true_m, y_true_s, gt_l, gt_m, gt_s)


def decay_groups(network: nn.Cell, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: no decay of biases and normalisation, else decay.

    Both groups keep the network's order; the optimizer's own order (and so its moments') is the
    first group's parameters, then the second's, as in the original.
    """
    free: list[Parameter] = []
    decayed: list[Parameter] = []
    for parameter in network.trainable_params():
        (free if parameter.name.endswith(UNDECAYED) else decayed).append(parameter)
    return [
        {"params": free, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": weight_decay},
    ]
