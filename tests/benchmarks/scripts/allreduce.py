"""A rank of a small data-parallel job: `allreduce.py --steps=N --pause=S`.

One AllReduce a step. It uses the rank contract, which is without effect under msrun, saves
nothing, so that every start begins at step 1, and prints `PID n`, then `STEP n time` (seconds
of CLOCK_MONOTONIC, which all processes of a machine share).
"""

import os
import sys
import time
from typing import Any

import numpy as np

from orchestrator.rank import Rank

WIDTH = 256


def main() -> None:
    """Init, join, compile and train, as a trainer does."""
    options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    print(f"PID {os.getpid()}", flush=True)
    rank = Rank.from_env()
    rank.phase("init")
    import mindspore as ms
    from mindspore.communication import get_group_size, get_rank, init

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    rank.phase("join")
    init()
    rank.phase("load")
    network = build(get_group_size())
    samples = np.random.default_rng(get_rank()).standard_normal((8, WIDTH), np.float32)
    rank.phase("compile")
    network.compile(ms.Tensor(samples))
    rank.phase("train")
    steps = int(options["steps"])
    for step in range(1, steps + 1):
        loss = float(network(ms.Tensor(samples)).asnumpy())
        now = time.monotonic()
        rank.step(step, loss=loss, images=len(samples), total=steps)
        print(f"STEP {step} {now:.6f}", flush=True)
        time.sleep(float(options["pause"]))
    rank.done()


def build(size: int) -> Any:
    """A linear layer that learns to give zero; its gradient is the mean over all ranks."""
    from mindspore import Parameter, Tensor, nn, ops

    class Step(nn.Cell):  # type: ignore[misc]
        """One step of training, its own optimizer."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = Parameter(Tensor(np.eye(WIDTH, dtype=np.float32)), name="weight")
            self.all_reduce = ops.AllReduce()

        def construct(self, inputs: Tensor) -> Tensor:
            """Return the loss before the update."""
            outputs = ops.matmul(inputs, self.weight)
            gradient = self.all_reduce(ops.matmul(inputs.T, outputs)) / size
            ops.assign(self.weight, self.weight - 1e-4 * gradient)
            return ops.mean(outputs * outputs)

    return Step()


if __name__ == "__main__":
    main()
