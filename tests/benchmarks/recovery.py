"""From the SIGKILL of one rank to the next new step: muster beside a loop around msrun.

The job on both sides: four ranks of `scripts/allreduce.py`, rank 1 killed once it has reported
step 20, the same number of threads and the same oneDNN kernels. Neither side saves anything, so
both begin at step 1 again: what is measured is the way back, not what was lost. Ours is a
`module:` job with MindSpore preloaded, as the rehearsal job is, so its ranks are forked; all else
is muster's default.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from orchestrator.journal import Event, read_events
from orchestrator.layout import RunDirectory
from orchestrator.ledger import fold
from tests.benchmarks import msrun_loop
from tests.benchmarks.bench import MUSTER, SCRIPTS, Bench, BenchmarkError, in_turn, tail
from tests.benchmarks.figures import Measurement, Summary
from tests.benchmarks.steps import first_step, steps_in

NAMES = ("recovery_vs_msrun_loop", "recovery_owned", "detection")

ROUNDS = 3
RANKS = 4
VICTIM = 1
KILL_AT = 20
ARGUMENTS = {"steps": 60, "pause": 0.05}
NUMERICS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
RUN_TIMEOUT = 300.0
CLOCK_TOLERANCE = 0.25
"""Seconds by which the incident and the ranks' own logs may differ about the first new step."""


@dataclass(frozen=True)
class Recovery:
    """One recovery of ours, in seconds after the fault."""

    detected: float
    processes: float
    """Every rank of the next attempt has a process: what muster itself adds."""
    first_step: float
    split: Mapping[str, float] = field(default_factory=dict)
    """Every part of the way back by its name: when it was over."""


PARTS = {
    "detected": "detected_after",
    "stopped": "stopped_after",
    "allocated": "allocated_after",
    "joined": "joined_after",
    "loaded": "loaded_after",
    "compiled": "compiled_after",
    "first step": "first_step_after",
}
"""The split of an incident, in the order of the way back."""


def told(split: Mapping[str, float]) -> str:
    """The way back in one line."""
    parts = (f"{name} {at:.3f}" for name, at in sorted(split.items(), key=lambda part: part[1]))
    return "seconds after the fault: " + ", ".join(parts)


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Runs of both sides in turn; the peer's only if a figure needs them."""

    def ours(number: int) -> Recovery:
        with bench.progress.doing(f"muster run, {number} of {ROUNDS}"):
            found = recover(bench)
        bench.progress.say(told(found.split))
        return found

    def peer(number: int) -> msrun_loop.Recovery:
        with bench.progress.doing(f"loop around msrun, {number} of {ROUNDS}"):
            return msrun_loop.recover(bench, scene())

    if wanted == {"recovery_owned"}:
        return {"recovery_owned": owned([ours(number) for number in range(1, ROUNDS + 1)])}
    recoveries, loops = in_turn(ROUNDS, ours, peer)
    return {
        "recovery_vs_msrun_loop": Measurement(
            "s",
            Summary.of([r.first_step for r in recoveries]),
            Summary.of([r.first_step for r in loops]),
            "a loop around msrun --join=True",
        ),
        "recovery_owned": owned(recoveries),
        "detection": Measurement(
            "s",
            Summary.of([r.detected for r in recoveries]),
            Summary.of([r.returned for r in loops]),
            "msrun --join=True, from the kill to its return",
        ),
    }


def scene() -> msrun_loop.Scene:
    """The job as the peer is told it."""
    return msrun_loop.Scene(
        script=SCRIPTS / "allreduce.py",
        arguments=[f"--{name}={value}" for name, value in ARGUMENTS.items()],
        ranks=RANKS,
        victim=VICTIM,
        kill_at=KILL_AT,
        environment=NUMERICS,
    )


def owned(recoveries: list[Recovery]) -> Measurement:
    """Without the start of MindSpore: detect, stop, decide, allocate, start."""
    return Measurement("s", Summary.of([recovery.processes for recovery in recoveries]))


def recover(bench: Bench) -> Recovery:
    """One run that loses a rank, from its start to its end."""
    folder = bench.folder("ours")
    # A folder of its own: the job's sources are what lies there.
    shutil.copy(SCRIPTS / "allreduce.py", folder)
    job, run_dir, log = folder / "job.yaml", folder / "run", folder / "output"
    job.write_text(yaml.safe_dump(document(folder), sort_keys=False))
    drill = f"kill-rank:{VICTIM}@step:{KILL_AT}"
    bench.complete([*MUSTER, "run", job, "--run-dir", run_dir, "--drill", drill], log, RUN_TIMEOUT)
    try:
        return read(RunDirectory(run_dir))
    except BenchmarkError as error:
        raise BenchmarkError(f"{error}\n{tail(log)}") from error


def document(folder: Path) -> dict[str, object]:
    """The job file; whatever it does not say has muster's defaults."""
    return {
        "version": 1,
        "name": "allreduce",
        "module": "allreduce",
        "workdir": str(folder),
        "args": ARGUMENTS,
        "env": NUMERICS,
        "resources": {"device": "cpu", "ranks": RANKS},
        "launch": {"mode": "dynamic", "preload": ["mindspore"]},
    }


def read(directory: RunDirectory) -> Recovery:
    """The recovery as the journal tells it, checked against the ranks' own logs."""
    events = read_events(directory.events)
    incidents = fold(events).incidents
    if len(incidents) != 1 or incidents[0]["fault_at_source"] != "drill":
        raise BenchmarkError(f"one incident by the drill's clock was expected: {incidents}")
    [incident] = incidents
    killed_at = one(events, "drill", attempt=1).data["at"]
    logs = [directory.attempt(2).log(rank) for rank in range(RANKS)]
    seen = [first_step(steps_in(log), after=killed_at) for log in logs]
    if None in seen:
        raise BenchmarkError(f"a rank of the second attempt made no step: {seen}")
    by_log = max(at for at in seen if at is not None) - killed_at
    if abs(by_log - incident["first_step_after"]) > CLOCK_TOLERANCE:
        raise BenchmarkError(
            f"first new step {incident['first_step_after']} s after the fault by the incident, "
            f"{by_log:.3f} s by the logs"
        )
    running = one(events, "running", attempt=2)
    return Recovery(
        detected=incident["detected_after"],
        processes=running.time - incident["fault_at"],
        first_step=incident["first_step_after"],
        split={
            "started": running.time - incident["fault_at"],
            **{n: incident[key] for n, key in PARTS.items() if incident.get(key) is not None},
        },
    )


def one(events: list[Event], kind: str, *, attempt: int) -> Event:
    """The only event of that kind in an attempt."""
    found = [event for event in events if event.kind == kind and event.attempt == attempt]
    if len(found) != 1:
        raise BenchmarkError(f"{len(found)} events {kind!r} in attempt {attempt}")
    return found[0]
