"""One training step as one graph: loss, gradients, their mean over all ranks, momentum.

A step whose mean gradient is not finite (an overflow under the loss scale) changes nothing. All
ranks see the same mean, so all of them skip it or none does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import SplitWithSize

from model.architecture import HEADS
from model.averaging import MovingAverage
from model.checkpoint import KEPT, STATISTICS
from model.config import Config
from model.loss import PARTS
from model.momentum import Momentum
from model.precision import lower_precision
from model.training_network import TrainingNetwork, decay_groups

BUCKET_BYTES = 64 << 20
"""Gradients that one all-reduce of the CPU backend carries at most."""

_ASSIGN = ops.Assign()
_RESHAPE = ops.Reshape()
_SHAPE = ops.Shape()
_HALF_SQUARES = ops.L2Loss()
_DOT = ops.MatMul(transpose_b=True)


class FlatMean(nn.Cell):
    """The mean of gradients over all ranks, with as few all-reduce calls as possible.

    Each call of the CPU backend has its own round trips, so gradients are laid end to end in
    buckets. The accelerators' backends fuse calls themselves and overlap them with the backward
    pass: `gradient_mean` does not use this there.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], world_size: int) -> None:
        """Plan the buckets for gradients of `shapes` (float32), in this order."""
        super().__init__()
        sizes = [math.prod(shape) for shape in shapes]
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


@dataclass(frozen=True)
class Outcome:
    """What a step says: this rank's loss before it, and the norm of all ranks' mean gradient.

    `parts` are the terms of the loss by head and name; nothing in here is scaled.
    """

    loss: float
    gradient_norm: float
    parts: dict[str, dict[str, float]]

    @property
    def skipped(self) -> bool:
        """Whether the step changed nothing, for a gradient that was not finite."""
        return not math.isfinite(self.gradient_norm)


def outcome_of(loss: float, norm: float, shares: np.ndarray) -> Outcome:
    """An outcome; `shares` (4, 3) are those of the loss by part and head."""
    columns = zip(HEADS, shares.T.tolist(), strict=True)
    parts = {head: dict(zip(PARTS, column, strict=True)) for head, column in columns}
    return Outcome(loss, norm, parts)


class Gradients(nn.Cell):
    """Loss and mean gradient of a global step."""

    def __init__(
        self,
        network: nn.Cell,
        parameters: Sequence[Parameter],
        loss_scale: float,
        mean: nn.Cell | None,
        backend: str,
        world_size: int = 1,
    ) -> None:
        """Differentiate by `parameters`; `mean` averages over the ranks, None for a single one."""
        super().__init__(auto_prefix=False)
        self.network = network
        self.mean = mean
        self.loss_scale = loss_scale
        # The last digits of a norm depend on the threads that computed it. All ranks take the mean
        # of theirs, so that they clip, and skip, alike.
        self.share = 1.0 / world_size
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM) if mean is not None else None
        self.square = square_on(backend)
        self.map = ops.composite.Map()
        self.add = ops.AddN()
        self.gradients = ops.value_and_grad(
            self._scaled_loss, None, ms.ParameterTuple(parameters), has_aux=True
        )
        self.set_train()

    def construct(self, *batch: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Return loss, the shares of its parts, the gradient's norm, and the scaled gradients.

        `batch`: what the network takes, of any batch size.
        """
        (_, loss, shares), gradients = self.gradients(*batch)
        if self.mean is not None:
            gradients = self.mean(gradients)
        norm = norm_of(self.add(self.map(self.square, gradients)))
        if self.mean is not None:
            norm = self.all_reduce(norm) * self.share
        return loss, shares, norm / self.loss_scale, gradients

    def _scaled_loss(self, *batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, shares = self.network(*batch)
        return loss if self.loss_scale == 1.0 else loss * self.loss_scale, loss, shares


class Update(nn.Cell):
    """The change of all parameters by a gradient."""

    def __init__(self, optimizer: Momentum, *, scaled: bool, average: MovingAverage | None) -> None:
        """Join them; gradients are taken as they are unless `scaled`."""
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.average = average
        self.scaled = scaled
        self.map = ops.composite.Map()
        self.partial = ops.Partial()

    def construct(self, rate: Tensor, factor: Tensor, *gradients: Tensor) -> Tensor:
        """Update all parameters by `gradients`, times `factor` () if they are scaled."""
        if self.scaled:
            gradients = self.map(self.partial(_times, factor), gradients)
        done = self.optimizer(rate, gradients)
        if self.average is None:
            return done
        return ops.depend(done, self.average(self.optimizer.global_step))


class TrainStep(nn.Cell):
    """Trains a network by one global step, as one graph.

    Parameters are those of the network, `moments.*` of the trainable ones, `global_step`,
    `learning_rate` and `momentum`: together all that a training checkpoint of the original holds;
    those of the moving average, if there is one; and copies of the statistics of batch
    normalisation after the last step that was not skipped.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: Momentum,
        *,
        backend: str = "cpu",
        world_size: int = 1,
        mean: nn.Cell | None = None,
        loss_scale: float = 1.0,
        clip_norm: float = 0.0,
        average: MovingAverage | None = None,
    ) -> None:
        """Join them; `mean` averages gradients over the ranks, None for a single one.

        The backward pass computes with the loss times `loss_scale`. A mean gradient longer than
        `clip_norm` is shortened to it (0: never).
        """
        # Parameters keep the names they have in the network.
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.average = average
        self.loss_scale, self.clip_norm = loss_scale, clip_norm
        self.gradients = Gradients(
            network, optimizer.parameters, loss_scale, mean, backend, world_size
        )
        scaled = clip_norm > 0 or loss_scale != 1.0
        self.update = Update(optimizer, scaled=scaled, average=average)
        # The forward pass has changed them before anybody knows that the step is to be skipped.
        statistics = [row for row in network.get_parameters() if row.name.endswith(STATISTICS)]
        self.statistics = ms.ParameterTuple(statistics)
        self.kept = ms.ParameterTuple(
            [Parameter(row.copy(), KEPT + row.name, requires_grad=False) for row in statistics]
        )
        self.normalises = bool(statistics)
        self.map = ops.composite.Map()
        self.set_train()

    def construct(self, rate: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Update all parameters at learning rate `rate` (); return loss, its shares and the norm.

        `batch`: what the network takes, of any batch size. The rate is an input because a graph
        with a condition does not see a Parameter that is set from outside (MindSpore 2.10, CPU).
        """
        loss, shares, norm, gradients = self.gradients(*batch)
        if ops.isfinite(norm):
            loss = ops.depend(loss, self.update(rate, self._factor(norm), *gradients))
            loss = self._copied(loss, self.kept, self.statistics)
        else:
            loss = self._copied(loss, self.statistics, self.kept)
        return loss, shares, norm

    def train(self, batch: Sequence[np.ndarray], rate: float) -> Outcome:
        """Make one step at learning rate `rate` with the arrays that the network takes."""
        loss, shares, norm = self(Tensor(rate, ms.float32), *map(Tensor.from_numpy, batch))
        return outcome_of(float(loss.asnumpy()), float(norm.asnumpy()), shares.asnumpy())

    def compile_for(self, shapes: Sequence[Sequence[tuple[int, ...]]]) -> None:
        """Compile the graphs for batches of these shapes, before the first step."""
        for inputs in shapes:
            batch = [Tensor(np.zeros(shape, np.float32)) for shape in inputs]
            self.compile(Tensor(0.0, ms.float32), *batch)

    def keep_statistics(self, others: Sequence[Any] = ()) -> None:
        """Take the network's statistics for good: to be called once it has its first state.

        There are no `others`: this process is one rank.
        """
        for kept, statistics in zip(self.kept, self.statistics, strict=True):
            kept.set_data(Tensor(np.array(statistics.asnumpy())))

    def statistics_of_others(self) -> list[dict[str, Parameter]]:
        """Those of virtual ranks beside the first: none."""
        return []

    def _copied(
        self, loss: Tensor, targets: Sequence[Parameter], sources: Sequence[Parameter]
    ) -> Tensor:
        return ops.depend(loss, self.map(_copy, targets, sources)) if self.normalises else loss

    def _factor(self, norm: Tensor) -> Tensor:
        if self.clip_norm > 0:
            norm = ops.maximum(norm, self.clip_norm)
            return self.clip_norm / norm / self.loss_scale
        return ops.ones_like(norm) / self.loss_scale


def build_step(
    network: TrainingNetwork, config: Config, world_size: int, backend: str
) -> TrainStep:
    """Wrap a training network for `world_size` ranks on `backend` (ascend, gpu or cpu)."""
    return TrainStep(network, **ingredients(network, config, world_size, backend))


def ingredients(
    network: TrainingNetwork, config: Config, world_size: int, backend: str
) -> dict[str, Any]:
    """What a step is made of beside its network, by the names of `TrainStep`'s parameters.

    The loss scale matters where gradients have 16 bits. In float32 a power of two changes no digit
    of what the original computes, and is left out.
    """
    lowered = lower_precision(network.yolo_network, config.precision, backend)
    optimizer = Momentum(
        *decay_groups(network),
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        backend=backend,
    )
    return {
        "optimizer": optimizer,
        "backend": backend,
        "world_size": world_size,
        "mean": gradient_mean(optimizer.parameters, world_size, backend),
        "loss_scale": config.loss_scale if lowered else 1.0,
        "clip_norm": config.clip_norm,
        "average": MovingAverage(network, config.ema_decay) if config.ema_decay else None,
    }


def gradient_mean(parameters: Sequence[Parameter], world_size: int, backend: str) -> nn.Cell | None:
    """The cell that averages gradients of `parameters` over the ranks; None for one rank."""
    if world_size == 1:
        return None
    if backend == "cpu":
        return FlatMean([parameter.shape for parameter in parameters], world_size)
    reducer: Any = nn.DistributedGradReducer(parameters, mean=True, degree=world_size)
    return reducer


def square_on(backend: str) -> Callable[[Tensor], Tensor]:
    """The sum of a gradient's squares (1, 1) or (): the fastest of several ways on `backend`."""
    # By far, for gradients that lie in the CPU's memory.
    return _dot if backend == "cpu" else _twice_half_squares


def norm_of(squares: Tensor) -> Tensor:
    """The length () of what has this sum of squares, of any shape with one element."""
    return ops.sqrt(_RESHAPE(squares, ()))


def _flat(gradient: Tensor) -> Tensor:
    return _RESHAPE(gradient, (-1,))


def _like(piece: Tensor, gradient: Tensor) -> Tensor:
    return _RESHAPE(piece, _SHAPE(gradient))


def _dot(gradient: Tensor) -> Tensor:
    row = _RESHAPE(gradient, (1, -1))
    return _DOT(row, row)


def _twice_half_squares(gradient: Tensor) -> Tensor:
    return _HALF_SQUARES(gradient) * 2.0


def _copy(target: Parameter, source: Parameter) -> Tensor:
    return _ASSIGN(target, source)


def _times(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor


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
