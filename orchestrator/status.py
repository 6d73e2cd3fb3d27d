"""What a run looks like from outside: the same view from the controller's memory or from disk."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator import processes
from orchestrator.health import Exit, RankView
from orchestrator.heartbeat import Heartbeat, read_heartbeat
from orchestrator.journal import read_events, read_lines
from orchestrator.layout import RunDirectory, read_json
from orchestrator.ledger import Ledger, fold
from orchestrator.plan import LaunchPlan
from orchestrator.secrets import Redactor
from orchestrator.states import JobState, RankState
from orchestrator.world import World

SCHEMA = 1


@dataclass(frozen=True)
class Place:
    """Where a rank was put."""

    node: str
    device: str
    cpus: tuple[int, ...]

    @property
    def index(self) -> int:
        """The physical id of the device."""
        return int(self.device.partition(":")[2])


@dataclass(frozen=True)
class RunView:
    """A run at one instant. `now` is CLOCK_MONOTONIC, `observed_at` Unix seconds."""

    job: str
    directory: RunDirectory
    ledger: Ledger
    ranks: tuple[RankView, ...]
    places: Mapping[int, Place]
    live: bool
    now: float
    observed_at: float

    @property
    def state(self) -> JobState:
        """The journal's state, unless nobody drives the run any more."""
        interrupted = not self.live and not self.ledger.state.terminal
        return JobState.FAILED if interrupted else self.ledger.state

    @property
    def reason(self) -> str:
        if not self.live and not self.ledger.state.terminal:
            return (
                f"interrupted while {self.ledger.state.value}: no process drives this run; "
                f"`muster resume {self.directory.root}` continues it"
            )
        return self.ledger.reason


def view_from_disk(directory: RunDirectory) -> RunView:
    """Read a run directory, whoever drives it."""
    spec = read_json(directory.spec) or {}
    ledger = fold(read_events(directory.events))
    plan = read_json(directory.attempt(ledger.attempt).plan) if ledger.attempt else None
    ranks = (plan or {}).get("ranks", [])
    live = is_driven(directory)
    return RunView(
        job=spec.get("name", directory.root.name),
        directory=directory,
        ledger=ledger,
        ranks=tuple(_rank_from_disk(rank, ledger, directory) for rank in ranks),
        places=_places(ranks),
        live=live,
        now=time.monotonic(),
        observed_at=time.time(),
    )


def places(plan: LaunchPlan) -> dict[int, Place]:
    """Where the ranks of a plan run."""
    placed = (rank.assignment for rank in plan.ranks)
    return {
        a.rank: Place(a.node, f"{a.device.kind.value}:{a.device.index}", a.cpus) for a in placed
    }


def _places(ranks: Sequence[Mapping[str, Any]]) -> dict[int, Place]:
    return {r["rank"]: Place(r["node"], r["device"], tuple(r["cpus"])) for r in ranks}


def is_driven(directory: RunDirectory) -> bool:
    """Whether a controller holds the run's lock now."""
    try:
        descriptor = os.open(directory.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _rank_from_disk(rank: Mapping[str, Any], ledger: Ledger, directory: RunDirectory) -> RankView:
    number = rank["rank"]
    files = directory.attempt(ledger.attempt)
    started = {entry[0]: entry for entry in ledger.pids}
    kept = read_json(files.beats) or {}
    ends = {line["rank"]: line for line in read_lines(files.exits)}
    end = ends.get(number)
    pid, start_time = (started[number][1:]) if number in started else (None, None)
    # Scripts may write it without our help; the plan knows where the secrets are.
    error = Redactor.of(rank.get("secrets", {})).value(read_json(files.error(number)))
    beat = read_heartbeat(rank["env"]["MUSTER_HEARTBEAT"])
    if beat is None and str(number) in kept:
        kept_beat = kept[str(number)]
        beat = Heartbeat(**{**kept_beat, "phase_entered": tuple(kept_beat["phase_entered"])})
    return RankView(
        rank=number,
        pid=end["pid"] if end else pid,
        start_time=start_time,
        exit=Exit(end["code"], end["signal"], end["at"], end["asked"]) if end else None,
        beat=beat,
        error=error if isinstance(error, dict) else None,
    )


def document(view: RunView) -> dict[str, Any]:
    """`muster status --json`."""
    ledger = view.ledger
    beats = [v.beat for v in view.ranks if v.beat is not None]
    step = max((beat.step for beat in beats), default=-1)
    totals = [beat.steps_total for beat in beats if beat.steps_total >= 0]
    return {
        "schema": SCHEMA,
        "observed_at": view.observed_at,
        "job": view.job,
        "name": view.job,
        "state": view.state.value,
        "reason": view.reason,
        "run_dir": str(view.directory.root),
        "simulated": bool(ledger.simulated),
        "world": _world(ledger.world),
        "attempt": ledger.attempt,
        "restarts": dict(ledger.restarts),
        "step": step if step >= 0 else (ledger.best_step or None),
        "steps_total": max(totals, default=None),
        "loss": mean_loss(view.ranks),
        "images_per_second": images_per_second(view.ranks),
        "goodput": goodput(view),
        "checkpoint": ledger.checkpoint,
        "ranks": [rank_document(rank, view, step) for rank in view.ranks],
    }


def _world(world: World | None) -> dict[str, Any] | None:
    """How many processes compute how many ranks; None before the first attempt."""
    if world is None:
        return None
    return {"ranks": world.ranks, "processes": world.size, "virtual_ranks": world.virtual}


def rank_document(rank: RankView, view: RunView, newest_step: int) -> dict[str, Any]:
    """One row of the rank table."""
    place = view.places.get(rank.rank)
    beat = rank.beat
    alive = rank.exit is None and beat is not None
    return {
        "rank": rank.rank,
        "state": rank_state(rank, view).value,
        "node": place.node if place else None,
        "device": place.device if place else None,
        "pid": rank.pid,
        "cpus": list(place.cpus) if place else [],
        "memory": resident_bytes(rank.pid) if rank.exit is None and view.live else None,
        "step": beat.step if beat and beat.step >= 0 else None,
        "step_seconds": finite(beat.step_seconds) if beat else None,
        "lag": newest_step - beat.step if beat and beat.step >= 0 else None,
        "heartbeat_age": round(max(0.0, view.now - beat.beat_at), 3) if alive and beat else None,
        "first_failures": view.ledger.first_failures.get(rank.rank, 0),
        "straggler": view.ledger.stragglers.get(rank.rank) if alive else None,
    }


def resident_bytes(pid: int | None) -> int | None:
    """Memory that a process holds now, in bytes; None if it is gone."""
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def rank_state(rank: RankView, view: RunView) -> RankState:
    """A rank's state; one whose process vanished with its supervisor is lost."""
    state = rank.state()
    if state.ended or rank.pid is None or view.live:
        return state
    identity = processes.identify(rank.pid)
    if identity is None or identity.start_time != rank.start_time:
        return RankState.LOST
    return state


def mean_loss(ranks: Sequence[RankView]) -> float | None:
    """The mean of the ranks' newest losses: each sees its own share of the batch."""
    losses = [rank.beat.loss for rank in ranks if rank.beat and math.isfinite(rank.beat.loss)]
    return sum(losses) / len(losses) if losses else None


def images_per_second(ranks: Sequence[RankView]) -> float | None:
    """The gang's throughput since the first step of this attempt."""
    rates = []
    for rank in ranks:
        beat = rank.beat
        if beat is None or beat.step <= beat.first_step:
            continue
        steps = beat.step - beat.first_step
        seconds = beat.step_at - beat.first_step_at
        if seconds > 0:
            rates.append(beat.images * steps / (steps + 1) / seconds)
    return round(sum(rates), 2) if rates else None


def goodput(view: RunView) -> float | None:
    """Time in steps that counted, over the time since the first start."""
    ledger = view.ledger
    if ledger.started_at is None:
        return None
    counted = ledger.counted_seconds
    if view.live and ledger.ended_attempt < ledger.attempt:
        counted += _seconds_of_steps(view.ranks)
    # A run that nobody drives gets no worse while it lies there.
    now = view.observed_at if view.live else ledger.heard_at or view.observed_at
    elapsed = (ledger.ended_at or now) - ledger.started_at
    return round(min(1.0, counted / elapsed), 4) if elapsed > 0 else None


def _seconds_of_steps(ranks: Sequence[RankView]) -> float:
    """Time in the steps of the attempt under way; the first, without a beginning, is an average."""
    beats = [rank.beat for rank in ranks if rank.beat and rank.beat.step > rank.beat.first_step]
    return max(
        (
            (beat.step_at - beat.first_step_at) * (1 + 1 / (beat.step - beat.first_step))
            for beat in beats
        ),
        default=0.0,
    )


def finite(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return round(value, 6) if math.isfinite(value) else None


def find_run(text: str) -> RunDirectory | None:
    """The run directory that a person named, or None."""
    directory = RunDirectory(Path(text).expanduser().absolute())
    return directory if directory.is_run() else None
