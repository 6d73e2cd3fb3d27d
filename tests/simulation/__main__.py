"""`python -m tests.simulation SEED`: one history, told; `FIRST COUNT`: many, and what they had."""

from __future__ import annotations

import sys
import time
from collections import Counter

from tests.simulation.history import History, play


def main() -> None:
    """See the module."""
    first, *rest = map(int, sys.argv[1:])
    if not rest:
        history = History(first)
        try:
            with history.stage():
                print(history.play())
        finally:
            history.strike()
            print("\n".join(history.told))
        return
    began = time.perf_counter()
    states: Counter[str] = Counter()
    for seed in range(first, first + rest[0]):
        ended = play(seed)
        states[ended.state.value] += 1
        states["attempts"] += ended.attempts
        states["failures"] += ended.failures
        states["deaths"] += ended.deaths
    seconds = time.perf_counter() - began
    print(dict(states), f"{rest[0] / seconds:.0f} histories a second")


if __name__ == "__main__":
    main()
