"""A rank that all-reduces in a MindSpore graph; rank 1 falls asleep in Python in attempt 1.

`allreduce.py` of the benchmarks lies beside it. At step 3 every rank is asked for its stacks in the
middle of its training, which must do it no harm.
"""

import os
import time

import numpy as np
from allreduce import WIDTH, build

from orchestrator.rank import Rank
from orchestrator.stack_signal import STACK_SIGNAL

STEPS = 12


def train(rank: Rank) -> None:
    """Join, compile, step."""
    import mindspore as ms
    from mindspore.communication import get_group_size, init

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    rank.phase("join")
    init()
    network = build(get_group_size())
    samples = ms.Tensor(np.ones((8, WIDTH), np.float32))
    rank.phase("compile")
    network.compile(samples)
    rank.phase("train")
    for step in range(1, STEPS + 1):
        if step == 3:
            os.kill(os.getpid(), STACK_SIGNAL)
        loss = float(network(samples).asnumpy())
        rank.step(step, loss=loss, images=8, total=STEPS)
        doze(rank, step)
    rank.done()


def doze(rank: Rank, step: int) -> None:
    """What holds the others up."""
    if (rank.attempt, rank.rank, step) == (1, 1, 8):
        time.sleep(3600)


if __name__ == "__main__":
    train(Rank.from_env())
