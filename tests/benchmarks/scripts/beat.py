"""A rank that does nothing but report steps: `beat.py BATCH BATCHES`.

Prints the mean microseconds a step of each batch as a JSON list.
"""

import json
import sys
import time

from orchestrator.rank import Rank


def main() -> None:
    """Warm up with one batch, then measure."""
    batch, batches = map(int, sys.argv[1:])
    rank = Rank.from_env()
    rank.phase("train")
    times = [one_batch(rank, batch) for _ in range(batches + 1)]
    rank.done()
    print(json.dumps(times[1:]))


def one_batch(rank: Rank, steps: int) -> float:
    """Mean microseconds of `rank.step` over `steps` steps."""
    since = time.perf_counter()
    for step in range(1, steps + 1):
        rank.step(step, loss=0.5, images=32, total=steps)
    return (time.perf_counter() - since) / steps * 1e6


if __name__ == "__main__":
    main()
