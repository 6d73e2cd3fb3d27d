"""From the SIGKILL of one worker to the next new step of all: muster beside Ray Train.

Ours is the run of `recovery`: four ranks of MindSpore on the CPU, killed at step 20. The peer is
Ray Train's TorchTrainer with four workers of torch on the CPU, a `FailureConfig` and a small
checkpoint every ten steps, killed at the same step (`sides/ray_train_loop.py`). The frameworks
differ, so each side's own start is part of its figure: torch is imported anew by four processes,
MindSpore is forked but forms its cluster in several seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks import recovery
from tests.benchmarks.bench import Bench, BenchmarkError, Unavailable, end, in_turn, tail
from tests.benchmarks.figures import Measurement, Summary
from tests.benchmarks.steps import pid_in, steps_in

NAMES = ("recovery_vs_ray_train",)

ROUNDS = 3
STEPS = 400
"""Of the peer: more than it makes before it is ended."""
START_TIMEOUT = 180.0
BACK_TIMEOUT = 180.0


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Runs of both sides in turn. Raises Unavailable without Ray Train or torch."""
    need(bench)
    splits: list[Mapping[str, float]] = []

    def ours(number: int) -> float:
        with bench.progress.doing(f"muster run, {number} of {ROUNDS}"):
            found = recovery.recover(bench)
        splits.append(found.split)
        return found.first_step

    def peer(number: int) -> float:
        with bench.progress.doing(f"Ray Train, {number} of {ROUNDS}"):
            return recover(bench)

    us, them = in_turn(ROUNDS, ours, peer)
    for split in splits:
        bench.progress.say(recovery.told(split))
    name = "Ray Train: TorchTrainer with FailureConfig"
    return {NAMES[0]: Measurement("s", Summary.of(us), Summary.of(them), name)}


def need(bench: Bench) -> None:
    """Raises Unavailable where the peer cannot run."""
    try:
        bench.output([sys.executable, "-c", "import torch, ray.train.torch"], 120.0)
    except BenchmarkError as error:
        raise Unavailable(
            "Ray Train and torch are not there: `make bench` installs them"
        ) from error


def recover(bench: Bench) -> float:
    """Seconds from the kill of one worker of Ray Train until all have made a new step."""
    folder = bench.folder("ray-train")
    output = folder / "output"
    argv = [sys.executable, "-m", "tests.benchmarks.sides.ray_train_loop", folder, str(STEPS),
            str(recovery.ARGUMENTS["pause"]), str(recovery.RANKS)]  # fmt: skip
    loop = bench.start(argv, output, env=bench.environment(**recovery.NUMERICS))
    try:
        killed_at = break_it(bench, folder, loop, output)
        return await_steps(bench, folder, loop, output, killed_at) - killed_at
    finally:
        end(loop, grace=0.0)
        bench.clear()


def logs_of(folder: Path, rank: int) -> list[Path]:
    """The log of each process that was this worker."""
    return sorted(folder.glob(f"worker_{rank}-*.log"))


def break_it(bench: Bench, folder: Path, loop: subprocess.Popen[bytes], output: Path) -> float:
    """Kill the victim in mid-training; returns when (CLOCK_MONOTONIC)."""

    def there() -> Path | None:
        alive(loop, output)
        for log in logs_of(folder, recovery.VICTIM):
            if any(step >= recovery.KILL_AT for step, _ in steps_in(log)):
                return log
        return None

    log = bench.until(there, START_TIMEOUT, f"step {recovery.KILL_AT} under Ray Train")
    pid = pid_in(log)
    if pid is None:
        raise BenchmarkError(f"{log} names no process")
    killed_at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return killed_at


def await_steps(
    bench: Bench, folder: Path, loop: subprocess.Popen[bytes], output: Path, killed_at: float
) -> float:
    """When the last of all workers has made its first step in a process begun after the kill."""
    before = {log for rank in range(recovery.RANKS) for log in logs_of(folder, rank)}

    def stepped() -> float | None:
        alive(loop, output)
        found = [first_new(set(logs_of(folder, rank)) - before) for rank in range(recovery.RANKS)]
        return None if None in found else max(at for at in found if at is not None)

    return bench.until(stepped, BACK_TIMEOUT, "a new step of every worker of Ray Train")


def first_new(logs: set[Path]) -> float | None:
    """When the first step in any of these logs was made."""
    return min((at for log in logs for _, at in steps_in(log)), default=None)


def alive(loop: subprocess.Popen[bytes], output: Path) -> None:
    """Raises BenchmarkError when the peer has ended by itself."""
    if loop.poll() is not None:
        raise BenchmarkError(f"Ray Train ended by itself:\n{tail(output)}")
