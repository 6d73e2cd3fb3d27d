"""Faults on purpose: `KIND[:RANK][@step:N|@phase:NAME]`, injected into a real run."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import checkpoints, processes
from orchestrator.health import RankView, Sign, Suspect
from orchestrator.heartbeat import PHASES

_FAULT = re.compile(
    r"(?P<kind>[a-z-]+)(:(?P<rank>\d+))?(@step:(?P<step>\d+)|@phase:(?P<phase>[a-z]+))?"
)


class FaultError(ValueError):
    """A fault that cannot be understood, or cannot be injected into this run."""


@dataclass(frozen=True)
class Fault:
    """A fault and its moment: at once, when a rank has finished a step, or enters a phase."""

    kind: str
    rank: int | None = None
    step: int | None = None
    phase: str | None = None

    def __str__(self) -> str:
        rank = "" if self.rank is None else f":{self.rank}"
        when = f"@step:{self.step}" if self.step is not None else ""
        when = f"@phase:{self.phase}" if self.phase is not None else when
        return f"{self.kind}{rank}{when}"


@dataclass(frozen=True)
class Target:
    """What of a run can be broken. `supervisor` and `ray` are None where unknown.

    `devices` has the physical id of each rank's device, `simulated` the rehearsal node it is of.
    """

    pids: Mapping[int, int]
    supervisor: int | None
    ray: tuple[int, ...]
    checkpoints: Path
    devices: Mapping[int, int] = field(default_factory=dict)
    simulated: str = ""


@dataclass(frozen=True)
class _Kind:
    inject: Callable[[Fault, Target], None]
    needs_rank: bool
    meaning: str


def parse(text: str, ranks: int | None = None) -> Fault:
    """Read a fault. Raises FaultError with what is allowed."""
    match = _FAULT.fullmatch(text)
    if match is None or match["kind"] not in KINDS:
        raise FaultError(
            f"fault {text!r} is not KIND[:RANK][@step:N|@phase:NAME] with KIND one of "
            + ", ".join(KINDS)
        )
    fault = Fault(
        kind=match["kind"],
        rank=int(match["rank"]) if match["rank"] else None,
        step=int(match["step"]) if match["step"] else None,
        phase=match["phase"],
    )
    _check(fault, text, ranks)
    return fault


def _check(fault: Fault, text: str, ranks: int | None) -> None:
    if KINDS[fault.kind].needs_rank != (fault.rank is not None):
        wanted = "needs a rank, e.g. " + f"{fault.kind}:0"
        raise FaultError(
            f"fault {text!r} "
            + (wanted if fault.rank is None else f"takes no rank: write {fault.kind}")
        )
    if fault.rank is not None and ranks is not None and fault.rank >= ranks:
        raise FaultError(f"fault {text!r}: the job has ranks 0 to {ranks - 1}")
    if fault.phase is not None and fault.phase not in PHASES:
        raise FaultError(f"fault {text!r}: phase is one of {', '.join(PHASES)}")


def due(fault: Fault, views: Sequence[RankView]) -> bool:
    """Whether the fault's moment has come: for its rank, or for any where it names none."""
    watched = [v for v in views if fault.rank in (None, v.rank)]
    if fault.step is not None:
        return any(v.beat is not None and v.beat.step >= fault.step for v in watched)
    if fault.phase is not None:
        entered = [v.beat.entered(fault.phase) for v in watched if v.beat is not None]
        return any(not math.isnan(at) for at in entered)
    return all(v.pid is not None for v in watched)


def explains(record: Mapping[str, Any], suspect: Suspect) -> bool:
    """Whether a drill that was recorded is the cause of a failure."""
    if record["fault"].startswith("kill-supervisor"):
        return suspect.sign is Sign.SUPERVISOR
    return record["rank"] is not None and record["rank"] == suspect.rank


def inject(fault: Fault, target: Target) -> None:
    """Do it, now and really. Raises FaultError where there is nothing to break."""
    KINDS[fault.kind].inject(fault, target)


def _signal_rank(number: int) -> Callable[[Fault, Target], None]:
    def send(fault: Fault, target: Target) -> None:
        pid = target.pids.get(fault.rank if fault.rank is not None else -1)
        try:
            if pid is None:
                raise ProcessLookupError
            os.kill(pid, number)
        except ProcessLookupError:
            raise FaultError(f"rank {fault.rank} has no process now") from None

    return send


def _break_device(kind: str) -> Callable[[Fault, Target], None]:
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
        _signal_rank(signal.SIGKILL)(fault, target)

    return harm


def _kill_supervisor(_: Fault, target: Target) -> None:
    try:
        if target.supervisor is None:
            raise ProcessLookupError
        os.kill(target.supervisor, signal.SIGKILL)
    except ProcessLookupError:
        raise FaultError("the run has no supervisor now") from None


def _kill_ray(_: Fault, target: Target) -> None:
    if not target.ray:
        raise FaultError("no Ray process of this run was found")
    for pid in target.ray:
        processes.kill_quietly(pid)


def _damage(change: Callable[[Path], None]) -> Callable[[Fault, Target], None]:
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


KINDS: dict[str, _Kind] = {
    "kill-rank": _Kind(_signal_rank(signal.SIGKILL), True, "SIGKILL to a rank"),
    "term-rank": _Kind(_signal_rank(signal.SIGTERM), True, "SIGTERM to a rank"),
    "hang-rank": _Kind(_signal_rank(signal.SIGSTOP), True, "SIGSTOP: the rank stands still"),
    "lose-device": _Kind(
        _break_device("lost"), True, "the rank's simulated device vanishes, its process dies"
    ),
    "alarm-device": _Kind(
        _break_device("alarm"), True, "an alarm on the rank's simulated device, its process dies"
    ),
    "kill-supervisor": _Kind(_kill_supervisor, False, "SIGKILL to the node's supervisor"),
    "kill-ray": _Kind(_kill_ray, False, "SIGKILL to the raylet"),
    "corrupt-checkpoint": _Kind(_damage(_flip_byte), False, "one byte of the newest flips"),
    "truncate-checkpoint": _Kind(_damage(_halve), False, "the newest loses half its bytes"),
}
"""Every fault that can be injected into a local run."""
