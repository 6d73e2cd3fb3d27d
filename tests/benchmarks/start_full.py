"""The start of the full network on the CPU, from nothing to its first step, 128 x 128, batch 1.

`start_full_warm`: a process resumes from a checkpoint and finds its graph in the compile cache,
beside one that has to compile it. Both take turns; what each part of the way takes is said for
every start (`sides.start`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench, in_turn
from tests.benchmarks.figures import Measurement, PeakMemory, Summary
from tests.benchmarks.sides import run_side
from tests.benchmarks.training_step import FAST, THREADS, TIMEOUT

NAMES = ("start_full_warm",)
ROUNDS = 3


@dataclass(frozen=True)
class Start:
    """One start: seconds and CPU seconds of each part of it, peak memory in GB."""

    seconds: Mapping[str, float]
    cpu: Mapping[str, float]
    memory: float

    @property
    def total(self) -> float:
        """Seconds of the whole."""
        return sum(self.seconds.values())


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Warm and cold starts in turn."""
    [name] = NAMES
    checkpoints, cache = bench.folder("checkpoints"), bench.folder("graphs")
    with bench.progress.doing("the checkpoint and the graph"):
        started(bench, cache, checkpoints)
    ours, peer = in_turn(
        ROUNDS,
        lambda _: told(bench, "warm", started(bench, cache, checkpoints)),
        lambda _: told(bench, "cold", started(bench, bench.folder("cold"), checkpoints)),
    )
    say_parts(bench, "warm", ours)
    say_parts(bench, "cold", peer)
    return {name: compared(ours, peer)}


def started(bench: Bench, cache: Path, checkpoints: Path) -> Start:
    """One start, to the end of its first step."""
    variables = {**FAST, "OMP_NUM_THREADS": THREADS}
    arguments = (cache, checkpoints, time.monotonic())
    found: dict[str, Any] = run_side(bench, "start", *arguments, timeout=TIMEOUT, **variables)
    return Start(**found)


def told(bench: Bench, what: str, start: Start) -> Start:
    """Say how long it took."""
    bench.progress.say(f"{what}: {start.total:.1f} s, {start.memory:.1f} GB at most")
    return start


def say_parts(bench: Bench, what: str, starts: Sequence[Start]) -> None:
    """Say what dominates: the median of every part, the longest first."""
    parts = {
        name: statistics.median([s.seconds[name] for s in starts]) for name in starts[0].seconds
    }
    for name, seconds in sorted(parts.items(), key=lambda part: -part[1]):
        cpu = statistics.median([start.cpu[name] for start in starts])
        bench.progress.say(f"  {what}, {name}: {seconds:.2f} s ({cpu:.2f} s of CPU)")


def compared(ours: Sequence[Start], peer: Sequence[Start]) -> Measurement:
    """Seconds to the first step, with the peak memory of both."""
    return Measurement(
        "s",
        Summary.of([start.total for start in ours]),
        Summary.of([start.total for start in peer]),
        "the same with an empty compile cache",
        memory=PeakMemory(max(s.memory for s in ours), max(s.memory for s in peer)),
    )
