"""A global step of several virtual ranks in one process, one after another.

A world of N ranks goes on with n processes where N / n = v: each computes what v ranks would have.
Forward and backward of one virtual rank add to accumulators; when all have been there, the sums
are averaged over all N ranks, and there is one update: the step of the full world, but for the
order in which gradients are summed (with N = 2 it is the same: a + b).

Every virtual rank has statistics of batch normalisation of its own. They are kept in the memory of
the host and put into the network for the rank's turn. The graphs hold no condition: one that has
does not see a Parameter that was set from outside (MindSpore 2.10, CPU).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from model.averaging import MovingAverage
from model.checkpoint import KEPT, STATISTICS
from model.momentum import Momentum
from model.step import Gradients, Outcome, Update, norm_of, outcome_of, square_on

Statistics = Mapping[str, np.ndarray]
"""Moving means and variances of one rank, by the names of their parameters."""

_ADD = ops.AssignAdd()
_ASSIGN = ops.Assign()


class Accumulate(nn.Cell):
    """Forward and backward of one virtual rank: its gradients are added to the sums."""

    def __init__(self, gradients: nn.Cell, sums: Sequence[Parameter]) -> None:
        """`gradients` returns loss, shares of its parts and gradients in the order of `sums`."""
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.sums = sums
        self.map = ops.composite.Map()
        self.set_train()

    def construct(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and the shares of its parts."""
        (_, loss, shares), gradients = self.gradients(*batch)
        return ops.depend(loss, self.map(_add, self.sums, gradients)), shares


class Clear(nn.Cell):
    """Sets the sums to zero: what an overflow has left there cannot be multiplied away."""

    def __init__(self, sums: Sequence[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.map = ops.composite.Map()

    def construct(self) -> Any:
        """Clear all."""
        return self.map(_clear, self.sums)


class Reduce(nn.Cell):
    """The sums' mean over the processes, in their place, and the norm of it."""

    def __init__(
        self, sums: Sequence[Parameter], mean: nn.Cell | None, backend: str, processes: int
    ) -> None:
        """`mean` averages over the processes; None for a single one."""
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.mean = mean
        self.share = 1.0 / processes
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM) if mean is not None else None
        self.square = square_on(backend)
        self.map = ops.composite.Map()
        self.add = ops.AddN()

    def construct(self) -> Tensor:
        """Return the norm (), the same on all processes."""
        if self.mean is None:
            return norm_of(self.add(self.map(self.square, self.sums)))
        means = self.mean(self.sums)
        norm = norm_of(self.add(self.map(self.square, means)))
        norm = self.all_reduce(norm) * self.share
        return ops.depend(norm, self.map(_assign, self.sums, means))


class Apply(nn.Cell):
    """The update by the sums."""

    def __init__(self, update: Update, sums: Sequence[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.update = update
        self.sums = sums

    def construct(self, rate: Tensor, factor: Tensor) -> Any:
        """Update all parameters at `rate` () by the sums times `factor` ()."""
        return self.update(rate, factor, *self.sums)


class VirtualStep(nn.Cell):
    """Trains a network by one global step, `virtual` ranks of it in this process.

    Has the parameters of `model.step.TrainStep`, and the sums, which are no state. Between steps
    the network has the statistics of the first of the virtual ranks.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: Momentum,
        *,
        virtual: int,
        backend: str = "cpu",
        world_size: int = 1,
        mean: nn.Cell | None = None,
        loss_scale: float = 1.0,
        clip_norm: float = 0.0,
        average: MovingAverage | None = None,
    ) -> None:
        """As `TrainStep`; `world_size` counts processes, and `mean` averages over them."""
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.average = average
        self.virtual = virtual
        self.loss_scale, self.clip_norm = loss_scale, clip_norm
        gradients = Gradients(network, optimizer.parameters, loss_scale, None, backend)
        self.sums = optimizer.parameters.clone(KEPT + "sum", "zeros")
        self.accumulate = Accumulate(gradients.gradients, self.sums)
        self.clear = Clear(self.sums)
        self.reduce = Reduce(self.sums, mean, backend, world_size)
        self.apply_sums = Apply(Update(optimizer, scaled=True, average=average), self.sums)
        self.statistics = {
            row.name: row for row in network.get_parameters() if row.name.endswith(STATISTICS)
        }
        self.kept: list[Statistics] = [{}] * virtual
        self.set_train()

    def train(self, batches: Sequence[Sequence[np.ndarray]], rate: float) -> Outcome:
        """Make one step with a batch for each virtual rank, in their order.

        The loss and its parts are means over the virtual ranks.
        """
        self.clear()
        outcomes, found = [], []
        for batch, before in zip(batches, self.kept, strict=True):
            self._show(before)
            loss, shares = self.accumulate(*map(Tensor.from_numpy, batch))
            outcomes.append((float(loss.asnumpy()), shares.asnumpy()))
            found.append(self._shown())
        norm = float(self.reduce().asnumpy()) / self.loss_scale / self.virtual
        if math.isfinite(norm):
            self.kept = found
            self._show(self.kept[0])  # before the update: the moving average follows them too
            self.apply_sums(Tensor(rate, ms.float32), Tensor(self._factor(norm)))
        else:
            self._show(self.kept[0])
        losses, parts = zip(*outcomes, strict=True)
        return outcome_of(sum(losses) / len(losses), norm, np.mean(parts, axis=0))

    def compile_for(self, shapes: Sequence[Sequence[tuple[int, ...]]]) -> None:
        """Compile the graphs for batches of these shapes, before the first step."""
        for inputs in shapes:
            self.accumulate.compile(*(Tensor(np.zeros(shape, np.float32)) for shape in inputs))
        self.clear.compile()
        self.reduce.compile()
        self.apply_sums.compile(Tensor(0.0, ms.float32), Tensor(0.0, ms.float32))

    def keep_statistics(self, others: Sequence[Statistics] = ()) -> None:
        """Take the network's statistics for good: to be called once it has its first state.

        `others` are those of the second virtual rank and so on; without them all begin alike.
        """
        first = self._shown()
        self.kept = [first, *(others or [first] * (self.virtual - 1))]
        if len(self.kept) != self.virtual:
            raise ValueError(f"statistics of {len(self.kept)} ranks, wanted {self.virtual}")

    def statistics_of_others(self) -> list[dict[str, Parameter]]:
        """The statistics of the second virtual rank and so on, as a checkpoint has them."""
        return [
            {name: Parameter(Tensor(row), name=name) for name, row in kept.items()}
            for kept in self.kept[1:]
        ]

    def _show(self, statistics: Statistics) -> None:
        for name, row in statistics.items():
            self.statistics[name].set_data(Tensor(row))

    def _shown(self) -> Statistics:
        return {name: row.asnumpy().copy() for name, row in self.statistics.items()}

    def _factor(self, norm: float) -> np.float32:
        """What the sums are multiplied by: their mean, unscaled, and shortened if too long.

        In the precision and order of `TrainStep`, so that the last digit is the same.
        """
        factor = np.float32(1.0)
        if self.clip_norm > 0:
            limit = np.float32(self.clip_norm)
            factor = limit / np.maximum(np.float32(norm), limit)
        return factor / np.float32(self.loss_scale) / np.float32(self.virtual)


def _add(total: Parameter, gradient: Tensor) -> Tensor:
    return _ADD(total, gradient)


def _assign(target: Parameter, source: Tensor) -> Tensor:
    return _ASSIGN(target, source)


def _clear(total: Parameter) -> Tensor:
    return _ASSIGN(total, ops.zeros_like(total))
