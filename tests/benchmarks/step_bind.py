"""What binding is worth: the step of eight ranks with `launch.bind` numa, blocks and none.

The rehearsal job, a few steps of it on a small data set of its own, by `muster run`; the modes
take turns, and all have the same number of threads a rank, so that only the places differ. Timed
is a step with the wait for its data, as rank 0 records it; as all ranks meet in every step, it is
that of the slowest. `step_bind` is numa beside blocks, `step_bind_none` numa beside none.

Fewer than sixteen CPUs give eight ranks no choice of places: there it is left out, and says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cluster import cpu
from cluster.affinity import Bind, bind
from cluster.cpu import CpuBudget
from tests.benchmarks.bench import MUSTER, Argv, Bench, BenchmarkError, Unavailable
from tests.benchmarks.figures import Measurement, Summary

NAMES = ("step_bind", "step_bind_none")
PEERS = {"step_bind": Bind.BLOCKS, "step_bind_none": Bind.NONE}

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "jobs" / "rehearsal_8p_cpu.yaml"
RANKS = 8
LEAST_CPUS = 2 * RANKS
ROUNDS = 3
STEPS, WARM = 40, 10
"""Steps of a run, and how many of the first are not counted."""
IMAGES = 256
RUN_TIMEOUT = 1200.0


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """All three modes in turn; Unavailable where they could not differ."""
    budget = cpu.measure()
    require_room(budget)
    seconds = step_seconds(bench, budget, RANKS, ROUNDS, STEPS, WARM)
    ours = Summary.of(seconds[Bind.NUMA])
    return {
        name: Measurement("s", ours, Summary.of(seconds[mode]), f"bind: {mode.value}")
        for name, mode in PEERS.items()
        if name in wanted
    }


def require_room(budget: CpuBudget) -> None:
    """Raise Unavailable where eight ranks have fewer than two CPUs each."""
    if budget.usable_cores < LEAST_CPUS:
        raise Unavailable(
            f"this machine has {budget.usable_cores:g} CPUs and cannot show it: "
            f"{RANKS} ranks need {LEAST_CPUS} or more to be bound in different ways"
        )


def step_seconds(
    bench: Bench, budget: CpuBudget, ranks: int, rounds: int, steps: int, warm: int
) -> dict[Bind, list[float]]:
    """Seconds of every step that counts, by mode."""
    data = bench.directory / "data"
    make_data: Argv = [sys.executable, "-m", "model.rehearsal_data", data, "--images", str(IMAGES)]
    bench.complete(make_data, bench.directory / "data.log", 300.0, cwd=ROOT)
    sets = {mode: sets_of(budget, ranks, mode) for mode in Bind}
    if sets[Bind.NUMA] == sets[Bind.BLOCKS]:
        bench.progress.say("numa and blocks are the same on this machine: expect a ratio of 1")
    threads = bind(budget.cpus, ranks, numa=budget.numa, siblings=budget.cores).threads
    found: dict[Bind, list[float]] = {mode: [] for mode in Bind}
    # The first run compiles for all others, and is not counted.
    run(bench, data, Bind.NUMA, ranks, threads, warm)
    for number in range(rounds):
        for mode in rotated(number):
            times = run(bench, data, mode, ranks, threads, steps)[warm:]
            found[mode] += times
            told = ", ".join(
                f"{seconds:.3f}" for seconds in sorted(times)[:: max(1, len(times) // 5)]
            )
            bench.progress.say(f"{mode.value}: {told} s")
    return found


def sets_of(budget: CpuBudget, ranks: int, mode: Bind) -> tuple[tuple[int, ...], ...]:
    """The CPU sets of a mode, as a plan has them for ranks without devices."""
    return bind(budget.cpus, ranks, numa=budget.numa, siblings=budget.cores, mode=mode).sets


def rotated(number: int) -> list[Bind]:
    """All modes, each in another place in each round."""
    modes = list(Bind)
    return modes[number % len(modes) :] + modes[: number % len(modes)]


def run(bench: Bench, data: Path, mode: Bind, ranks: int, threads: int, steps: int) -> list[float]:
    """Seconds of the steps of one run."""
    folder = bench.folder("run")
    changes = {
        "resources.ranks": ranks,
        "launch.bind": mode.value,
        "env.OMP_NUM_THREADS": f"'{threads}'",
        "args.data_dir": data,
        "args.max_steps": steps,
        "args.evaluate_at_end": 0,
        "args.compile_cache": bench.directory / "graphs",
        "checkpoint.every_steps": steps,
    }
    options = [f"--set={path}={value}" for path, value in changes.items()]
    argv: Argv = [*MUSTER, "run", JOB, "--run-dir", folder / "run", *options]
    with bench.progress.doing(f"{steps} steps of {ranks} ranks, bind: {mode.value}"):
        bench.complete(argv, folder / "output", RUN_TIMEOUT, cwd=ROOT)
    return recorded(folder / "run" / "metrics.jsonl", steps)


def recorded(metrics: Path, steps: int) -> list[float]:
    """Seconds of each step, the wait for data included; BenchmarkError unless all are there."""
    try:
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        seconds = [row["step_seconds"] + row["data_wait_seconds"] for row in lines if "loss" in row]
    except (OSError, ValueError, KeyError) as error:
        raise BenchmarkError(f"{metrics}: {error!r}") from error
    if len(seconds) != steps:
        raise BenchmarkError(f"{metrics} has {len(seconds)} steps instead of {steps}")
    return seconds
