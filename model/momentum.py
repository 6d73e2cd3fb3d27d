"""Stochastic gradient descent with momentum (Sutskever et al. 2013), few passes over memory.

The arithmetic of MindSpore's `nn.Momentum` with weight decay, and its parameters by name. With
108 million parameters every pass over weights or gradients counts: half of what a step on the CPU
spent outside of convolutions was its separate products, sums and unscaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import AddExt

_ADD_PRODUCT = AddExt()
_APPLY = ops.ApplyMomentum()
_ASSIGN = ops.Assign()
_ASSIGN_ADD = ops.AssignAdd()


class Momentum(nn.Cell):
    """Updates two groups of parameters, one `free` of decay and one `decayed`, in this order.

    Holds `moments.*` of them, `global_step` (updates so far), `learning_rate` and `momentum`, as a
    training checkpoint of the original does.
    """

    def __init__(
        self,
        free: Sequence[Parameter],
        decayed: Sequence[Parameter],
        *,
        weight_decay: float,
        momentum: float,
        backend: str = "cpu",
    ) -> None:
        """Begin at rest, with a learning rate of zero."""
        super().__init__(auto_prefix=False)
        self.parameters = ms.ParameterTuple([*free, *decayed])
        self.decayed = ms.ParameterTuple(decayed)
        self.free = len(free)
        self.weight_decay = weight_decay
        # One kernel on the CPU; the accelerators' backends fuse the two by themselves.
        self.decay = _decay_at_once if backend == "cpu" else _decay
        self.moments = self.parameters.clone("moments", "zeros")
        self.global_step = Parameter(Tensor([0], ms.int32), name="global_step")
        self.learning_rate = Parameter(Tensor(0.0, ms.float32), name="learning_rate")
        self.momentum = Parameter(Tensor(momentum, ms.float32), name="momentum")
        self.map = ops.composite.Map()
        self.partial = ops.Partial()

    def construct(self, rate: Tensor, gradients: tuple[Tensor, ...]) -> Any:
        """Update all parameters at learning rate `rate` () by their gradients, in their order.

        Gradients are neither scaled nor decayed. The rate is kept for checkpoints.
        """
        if self.weight_decay:
            decay = self.partial(self.decay, self.weight_decay)
            gradients = gradients[: self.free] + self.map(
                decay, gradients[self.free :], self.decayed
            )
        apply = self.partial(_apply, rate, self.momentum)
        done = self.map(apply, self.parameters, self.moments, gradients)
        done = ops.depend(done, _ASSIGN(self.learning_rate, rate))
        return ops.depend(done, _ASSIGN_ADD(self.global_step, 1))


def _decay_at_once(decay: float, gradient: Tensor, weight: Tensor) -> Tensor:
    return _ADD_PRODUCT(gradient, weight, decay)


def _decay(decay: float, gradient: Tensor, weight: Tensor) -> Tensor:
    return gradient + weight * decay


def _apply(
    rate: Tensor, momentum: Tensor, weight: Tensor, moment: Tensor, gradient: Tensor
) -> Tensor:
    return _APPLY(weight, moment, rate, gradient, momentum)
