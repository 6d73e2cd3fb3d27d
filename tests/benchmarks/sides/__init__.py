"""Programs that a benchmark of the trainer starts: one side or both, in a process of their own.

Run as `python -m tests.benchmarks.sides.NAME`; what they found is JSON on their last line.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from tests.benchmarks.bench import Bench, BenchmarkError


def run_side(
    bench: Bench, name: str, *arguments: object, timeout: float, **environment: str
) -> Any:
    """Run side `name` to its end and return what it found."""
    argv = [sys.executable, "-m", f"{__name__}.{name}", *map(str, arguments)]
    lines = bench.output(argv, timeout, **environment).splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise BenchmarkError(f"{name} printed no result: {lines[-1:]}") from error


def report(found: Any) -> None:
    """Print what a side has found."""
    print(json.dumps(found), flush=True)


def peak_gigabytes() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
