"""One training step as one graph: loss, gradients, their mean over all ranks, momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import SplitWithSize

from model.config import Config
from model.training_network import TrainingNetwork, decay_groups

BUCKET_BYTES = 64 << 20
"""Gradients that one all-reduce of the CPU backend carries at most."""

_RESHAPE = ops.Reshape()
_SHAPE = ops.Shape()


class FlatMean(nn.Cell):
    """The mean of gradients over all ranks, with as few all-reduce calls as possible.

    Each call of the CPU backend has its own round trips, so gradients are laid end to end in
    buckets. The accelerators' backends fuse calls themselves and overlap them with the backward
    pass: `gradient_mean` does not use this there.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], world_size: int) -> None:
        """Plan the buckets for gradients of `shapes` (float32), in this order."""
        super().__init__()
        sizes = [_count(shape) for shape in shapes]
        self.ranges = _buckets(sizes, BUCKET_BYTES // 4)
        self.sizes = tuple(tuple(sizes[first:end]) for first, end in self.ranges)
        self.share = 1.0 / world_size
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)
        self.concat = ops.Concat()
        # Primitives, and maps instead of loops: this compiles ten times as fast as the same with
        # tensor methods and slices.
        self.split = SplitWithSize()
        self.map = ops.composite.Map()

    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the means, in the order and shapes of `gradients`."""
        means = ()
        for i, (first, end) in enumerate(self.ranges):
            bucket = gradients[first:end]
            flat = self.all_reduce(self.concat(self.map(_flat, bucket))) * self.share
            means += self.map(_like, self.split(flat, self.sizes[i], 0), bucket)
        return means


class TrainStep(nn.Cell):
    """Trains a network by one global step.

    Parameters are those of the network, `moments.*` of the trainable ones, `global_step`,
    `learning_rate` and `momentum`: together all that a training checkpoint of the original holds.
    """

    def __init__(
        self, network: nn.Cell, optimizer: nn.Optimizer, loss_scale: float, mean: nn.Cell | None
    ) -> None:
        """Join them; `mean` averages gradients over the ranks, None for a single one."""
        # Parameters keep the names they have in the network.
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.mean = mean
        self.loss_scale = loss_scale
        self.gradients = ops.value_and_grad(
            self._scaled_loss, None, optimizer.parameters, has_aux=True
        )
        self.set_train()

    def construct(self, *batch: Tensor) -> Tensor:
        """Update all parameters; return this rank's loss (scalar, not scaled) before that.

        `batch`: what the network takes, of any batch size.
        """
        (_, loss), gradients = self.gradients(*batch)
        if self.mean is not None:
            gradients = self.mean(gradients)
        return ops.depend(loss, self.optimizer(gradients))

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of the steps to come; does not compile anything again."""
        self.optimizer.learning_rate.set_data(Tensor(rate, ms.float32))

    @property
    def steps_done(self) -> int:
        """Global steps trained so far, by the optimizer's own count."""
        return int(self.optimizer.global_step.asnumpy()[0])

    def _scaled_loss(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.network(*batch)
        return loss * self.loss_scale, loss


def build_step(
    network: TrainingNetwork, config: Config, world_size: int, backend: str
) -> TrainStep:
    """Wrap a training network for `world_size` ranks on `backend` (ascend, gpu or cpu).

    The optimizer divides gradients by the loss scale after it has added the decay, which it
    multiplies by the scale first: the original's arithmetic, exact for a power of two.
    """
    optimizer = nn.Momentum(
        decay_groups(network, config.weight_decay),
        learning_rate=config.lr,
        momentum=config.momentum,
        loss_scale=config.loss_scale,
    )
    mean = gradient_mean(optimizer.parameters, world_size, backend)
    return TrainStep(network, optimizer, config.loss_scale, mean)


def gradient_mean(parameters: Sequence[Parameter], world_size: int, backend: str) -> nn.Cell | None:
    """The cell that averages gradients of `parameters` over the ranks; None for one rank."""
    if world_size == 1:
        return None
    if backend == "cpu":
        return FlatMean([parameter.shape for parameter in parameters], world_size)
    reducer: Any = nn.DistributedGradReducer(parameters, mean=True, degree=world_size)
    return reducer


def _flat(gradient: Tensor) -> Tensor:
    return _RESHAPE(gradient, (-1,))


def _like(piece: Tensor, gradient: Tensor) -> Tensor:
    return _RESHAPE(piece, _SHAPE(gradient))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _buckets(sizes: Sequence[int], limit: int) -> tuple[tuple[int, int], ...]:
    """Consecutive ranges [first, end) of at most `limit` numbers, or of one larger tensor."""
    ranges = []
    first = total = 0
    for index, size in enumerate(sizes):
        if index > first and total + size > limit:
            ranges.append((first, index))
            first, total = index, 0
        total += size
    ranges.append((first, len(sizes)))
    return tuple(ranges)
