"""How long the command line takes to say what it can, beside Ray's."""

from __future__ import annotations

import time
from pathlib import Path

from tests.benchmarks.bench import BIN, Bench, BenchmarkError, in_turn
from tests.benchmarks.figures import Measurement, Summary

NAMES = ("cli_help",)

RUNS = 20
TIMEOUT = 60.0


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """`muster --help` and `ray --help` of this environment in turn; one of each before."""

    def timed(program: Path) -> float:
        since = time.perf_counter()
        bench.output([program, "--help"], timeout=TIMEOUT)
        bench.progress.tick()
        return time.perf_counter() - since

    muster, ray = BIN / "muster", BIN / "ray"
    for program in (muster, ray):
        if not program.exists():
            raise BenchmarkError(f"{program} is not installed; `make setup` does it")
        timed(program)
    with bench.progress.doing(f"{RUNS} times muster --help and ray --help"):
        ours, peer = in_turn(RUNS, lambda _: timed(muster), lambda _: timed(ray))
    return {"cli_help": Measurement("s", Summary.of(ours), Summary.of(peer), "ray --help")}
