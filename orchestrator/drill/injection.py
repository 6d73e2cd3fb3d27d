"""How each fault is done to a run: now, and really. The one place that breaks things."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator import checkpoints, drill_record, processes, stop_request
from orchestrator.drill import disk, memory
from orchestrator.drill.faults import Fault, FaultError
from orchestrator.drill.throttle import Throttle


class Lasting(Protocol):
    """A fault that lasts: whoever injected it ends it."""

    def over(self) -> bool:
        """Whether it has ended by itself, or its time has come."""

    def end(self) -> None:
        """Put everything back; safe to call twice."""


@dataclass(frozen=True)
class Target:
    """What of a run can be broken. What is None or empty is unknown, or not there.

    `devices` has the physical id of each rank's device, `simulated` the rehearsal node it is of;
    `records` where each rank's drill record lies, `stop` the request to stop of all.
    """

    pids: Mapping[int, int]
    supervisor: int | None
    ray: tuple[int, ...]
    checkpoints: Path
    devices: Mapping[int, int] = field(default_factory=dict)
    simulated: str = ""
    controller: int | None = None
    scheduler: int | None = None
    records: Mapping[int, Path] = field(default_factory=dict)
    stop: Path | None = None
    run_id: str = ""


Effect = Callable[[Fault, Target], Lasting | None]


def inject(fault: Fault, target: Target) -> Lasting | None:
    """Do it. Raises FaultError where there is nothing to break, OSError."""
    return EFFECTS[fault.kind](fault, target)


def touches(fault: Fault, target: Target) -> str | None:
    """The checkpoint that a fault damages; None for a fault that damages none."""
    found = checkpoints.catalogue(target.checkpoints) if fault.kind in _DAMAGES else []
    return str(found[0].path) if found else None


def _pid_of(fault: Fault, target: Target) -> int:
    pid = target.pids.get(-1 if fault.rank is None else fault.rank)
    if pid is None:
        raise FaultError(f"rank {fault.rank} has no process now")
    return pid


def _kill(pid: int | None, number: int, missing: str) -> None:
    try:
        if pid is None:
            raise ProcessLookupError
        os.kill(pid, number)
    except ProcessLookupError:
        raise FaultError(missing) from None


def _signal_rank(number: int) -> Effect:
    def send(fault: Fault, target: Target) -> None:
        _kill(_pid_of(fault, target), number, f"rank {fault.rank} has no process now")

    return send


def _kill_one(of: Callable[[Target], int | None], what: str) -> Effect:
    def send(_: Fault, target: Target) -> None:
        _kill(of(target), signal.SIGKILL, f"the run has no {what} now")

    return send


def _break_device(kind: str) -> Effect:
    """A fault of the rank's rehearsal device, and the end of the process that works on it."""

    def harm(fault: Fault, target: Target) -> None:
        from cluster.simulated import rehearsal

        device = target.devices.get(-1 if fault.rank is None else fault.rank)
        if not target.simulated or device is None:
            raise FaultError("only a rehearsal node's devices can be broken on purpose")
        try:
            rehearsal.break_node(Path(target.simulated), f"{kind}:{device}")
        except (ValueError, OSError) as error:
            raise FaultError(str(error)) from error
        _kill(_pid_of(fault, target), signal.SIGKILL, f"rank {fault.rank} has no process now")

    return harm


def _kill_ray(_: Fault, target: Target) -> None:
    if not target.ray:
        raise FaultError("no Ray process of this run was found")
    for pid in target.ray:
        processes.kill_quietly(pid)


def _slow(fault: Fault, target: Target) -> Lasting:
    return Throttle.of(_pid_of(fault, target), target.run_id)


def _record_of(fault: Fault, target: Target) -> Path:
    record = target.records.get(-1 if fault.rank is None else fault.rank)
    if record is None or not record.exists():
        raise FaultError(f"rank {fault.rank} has no drill record: nothing reaches inside it")
    return record


def _spoil_losses(fault: Fault, target: Target) -> None:
    drill_record.spoil_losses(_record_of(fault, target))


def _exhaust(fault: Fault, target: Target) -> Lasting | None:
    """By the kernel where it can be made to; else the rank behaves as if memory were out."""
    record, pid = _record_of(fault, target), _pid_of(fault, target)
    group = memory.confine(pid)
    size = memory.BEYOND if group else drill_record.NOTHING_TO_TAKE
    drill_record.exhaust(record, size)
    return group


def _preempt(_: Fault, target: Target) -> None:
    if target.stop is None or not target.stop.exists():
        raise FaultError("the ranks of this run cannot be asked to save themselves now")
    stop_request.ask(target.stop)


def _fill_disk(_: Fault, target: Target) -> Lasting:
    return disk.fill(target.checkpoints)


def _damage(change: Callable[[Path], None]) -> Effect:
    def harm(_: Fault, target: Target) -> None:
        found = checkpoints.catalogue(target.checkpoints)
        if not found:
            raise FaultError("there is no checkpoint yet")
        change(found[0].path / checkpoints.MODEL)

    return harm


def _flip_byte(path: Path) -> None:
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def _halve(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)


_DAMAGES = frozenset({"corrupt-checkpoint", "truncate-checkpoint"})

EFFECTS: dict[str, Effect] = {
    "kill-rank": _signal_rank(signal.SIGKILL),
    "term-rank": _signal_rank(signal.SIGTERM),
    "hang-rank": _signal_rank(signal.SIGSTOP),
    "slow-rank": _slow,
    "oom-rank": _exhaust,
    "nan-loss": _spoil_losses,
    "lose-device": _break_device("lost"),
    "alarm-device": _break_device("alarm"),
    "kill-scheduler": _kill_one(lambda target: target.scheduler, "rendezvous scheduler"),
    "kill-supervisor": _kill_one(lambda target: target.supervisor, "supervisor"),
    "kill-raylet": _kill_ray,
    "kill-controller": _kill_one(lambda target: target.controller, "controller"),
    "preempt": _preempt,
    "fill-disk": _fill_disk,
    "corrupt-checkpoint": _damage(_flip_byte),
    "truncate-checkpoint": _damage(_halve),
}
"""By kind, what is done; a fault that lasts gives back what ends it."""
