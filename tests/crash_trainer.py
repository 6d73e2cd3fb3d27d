"""A network of two parameters and the state of a training, for kills of what the trainer writes."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, nn

from model.checkpoint import TrainingState


class Small(nn.Cell):  # type: ignore[misc]
    """Two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(ms.Tensor([1.0, 2.0], ms.float32), name="weight")
        self.bias = Parameter(ms.Tensor([3.0], ms.float32), name="bias")


def small() -> Small:
    """A new one."""
    return Small()


def state_of(step: int) -> TrainingState:
    """Where a training stands after `step`."""
    return TrainingState(
        step=step, epoch=0, batch=step, next_step=step, seed=1, learning_rate=0.1, loss_scale={},
        categories=[], configuration="", world_size=1, threads="1", backend="CPU", mindspore="2.10",
    )  # fmt: skip
