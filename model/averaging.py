"""A moving average of the weights (Polyak and Juditsky 1992): steadier than the last of them."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

PREFIX = "ema."
"""Begins the names of averaged parameters, so that they are none of the network's own."""

_ASSIGN = ops.Assign()


class MovingAverage(nn.Cell):
    """A second set of a network's parameters and statistics that follows the first.

    After update t each value is `d` times itself and `1 - d` times the network's, with `d` the
    smaller of `decay` and `(1 + t) / (10 + t)`: the first weights are soon forgotten.
    """

    def __init__(self, network: nn.Cell, decay: float) -> None:
        """Follow `network`; `decay` lies between 0 and 1."""
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.followed = ms.ParameterTuple(list(network.get_parameters()))
        self.averaged = ms.ParameterTuple(
            [Parameter(row.copy(), PREFIX + row.name, requires_grad=False) for row in self.followed]
        )
        self.map = ops.composite.Map()
        self.partial = ops.Partial()

    def construct(self, updates: Tensor) -> Tensor:
        """Follow once more; `updates` (1,) int32 is how many there have been with this one."""
        count = ops.cast(updates, ms.float32)
        share = 1.0 - ops.minimum((1.0 + count) / (10.0 + count), self.decay)
        return self.map(self.partial(_follow, share), self.averaged, self.followed)

    def restart(self) -> None:
        """Begin again with what the network has now."""
        for mine, its in zip(self.averaged, self.followed, strict=True):
            mine.set_data(Tensor(np.array(its.asnumpy())))


def _follow(share: Tensor, average: Parameter, value: Parameter) -> Tensor:
    return _ASSIGN(average, average + (value - average) * share)
