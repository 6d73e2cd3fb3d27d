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
        return tell(first)
    began = time.perf_counter()
    states: Counter[str] = Counter()
    for seed in range(first, first + rest[0]):
        ended = play(seed)
        states[ended.state.value] += 1
        states["attempts"] += ended.attempts
        states["failures"] += ended.failures
        for name in ("deaths", "from_snapshots", "promoted", "shrunk", "grown"):
            states[name] += getattr(ended, name)
    seconds = time.perf_counter() - began
    print(dict(states), f"{rest[0] / seconds:.0f} histories a second")


def tell(seed: int) -> None:
    """What happened in one history, and what did not hold."""
    history = History(seed)
    try:
        with history.stage():
            end = str(history.play())
    except AssertionError as error:
        end = f"{type(error).__name__}: {error}"
    finally:
        history.strike()
    print("\n".join((*history.told, end)))


if __name__ == "__main__":
    main()
