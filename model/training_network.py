"""The network together with its loss, as training sees it, and the optimizer's groups."""

from __future__ import annotations

from mindspore import Parameter, Tensor, nn

from model.loss import DetectionLoss
from model.yolo import YoloV3

UNDECAYED = (".bias", ".gamma", ".beta")
"""Ends of the names of parameters that weight decay leaves alone."""


class TrainingNetwork(nn.Cell):
    """Image and targets in, loss and its parts out.

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
    ) -> tuple[Tensor, Tensor]:
        """Return the scalar loss of a batch and the shares (4, 3) of its parts and heads in it.

        Shapes: `model.yolo`, `model.loss`.
        """
        raw_l, raw_m, raw_s = self.yolo_network(image)
        return self.loss(raw_l, raw_m, raw_s, y_true_l, y_true_m, y_true_s, gt_l, gt_m, gt_s)


def decay_groups(network: nn.Cell) -> tuple[list[Parameter], list[Parameter]]:
    """Trainable parameters without weight decay (biases, normalisation), and those with it.

    Both keep the network's order; the optimizer's own order (and so its moments') is the first
    group, then the second, as in the original.
    """
    free: list[Parameter] = []
    decayed: list[Parameter] = []
    for parameter in network.trainable_params():
        (free if parameter.name.endswith(UNDECAYED) else decayed).append(parameter)
    return free, decayed
