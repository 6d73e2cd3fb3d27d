"""The real trainer, but after STEP of the first attempt one number of rank 1's is another one.

diverging_trainer.py STEP --data_dir=... [--name=value ...]
"""

import sys
import time

from model import run, train
from orchestrator.rank import Rank


def main() -> None:
    """Train, with a wrong number of the last trainable parameter's, and tell what digests cost."""
    at = int(sys.argv.pop(1))
    rank = Rank.from_env()
    tell = rank.step

    def step(number: int, **told: object) -> None:
        if number == at and rank.rank == 1 and rank.attempt == 1:
            spoil()
        tell(number, **told)

    rank.step = step
    train.Agreement = Timed
    train.start = start
    train.main()


started: list[run.Run] = []


def start(one: run.Run) -> object:
    """Remember the run."""
    started.append(one)
    return run.start(one)


def spoil() -> None:
    """Change one number."""
    from mindspore import Tensor, ops

    parameter = started[0].network.optimizer.parameters[-1]
    values = parameter.asnumpy().copy()
    values.flat[0] += 0.001
    ops.assign(parameter, Tensor(values))


class Timed(train.Agreement):
    """Says what each digest takes."""

    def after(self, step: int) -> None:
        """The same."""
        began = time.thread_time()
        super().after(step)
        seconds = time.thread_time() - began
        if step % 50 == 0:
            size = sum(row.nbytes for part in self.parts for row in part)
            print(f"digest {step}: {seconds * 1e3:.3f} ms for {size} bytes", flush=True)


if __name__ == "__main__":
    main()
