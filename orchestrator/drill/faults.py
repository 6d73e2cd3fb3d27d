"""The kinds of faults and their grammar: `KIND[:RANK][@step:N|@phase:NAME]`. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.health import RankView, Sign, Suspect
from orchestrator.heartbeat import PHASES

_FAULT = re.compile(
    r"(?P<kind>[a-z-]+)(:(?P<rank>\d+))?(@step:(?P<step>\d+)|@phase:(?P<phase>[a-z]+))?"
)


class FaultError(ValueError):
    """A fault that cannot be understood, or cannot be injected into this run."""


@dataclass(frozen=True)
class Kind:
    """What a fault of this kind is, in a line, and whether it is of one rank."""

    needs_rank: bool
    meaning: str


KINDS: dict[str, Kind] = {
    "kill-rank": Kind(True, "SIGKILL to a rank"),
    "term-rank": Kind(True, "SIGTERM to a rank, as by an outsider"),
    "hang-rank": Kind(True, "SIGSTOP: the rank stands still"),
    "slow-rank": Kind(True, "SIGSTOP and SIGCONT in turn, for a while: the rank crawls"),
    "oom-rank": Kind(True, "the rank's memory is out, in its next step"),
    "nan-loss": Kind(True, "the rank reports NaN as its loss, until the attempt ends"),
    "lose-device": Kind(True, "the rank's simulated device vanishes, its process dies"),
    "alarm-device": Kind(True, "an alarm on the rank's simulated device, its process dies"),
    "kill-scheduler": Kind(False, "SIGKILL to the rendezvous scheduler"),
    "kill-supervisor": Kind(False, "SIGKILL to the node's supervisor"),
    "kill-raylet": Kind(False, "SIGKILL to the raylet"),
    "kill-controller": Kind(False, "SIGKILL to the process that drives the run"),
    "preempt": Kind(False, "all ranks are asked to save themselves and leave, and go on later"),
    "fill-disk": Kind(False, "the run's file system is full for a while; only where it is small"),
    "corrupt-checkpoint": Kind(False, "one byte of the newest flips"),
    "truncate-checkpoint": Kind(False, "the newest loses half its bytes"),
}
"""Every fault that can be injected."""

ALIASES: Mapping[str, str] = {"kill-ray": "kill-raylet", "device-fault": "lose-device"}
"""Other names of kinds."""


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


def parse(text: str, ranks: int | None = None) -> Fault:
    """Read a fault. Raises FaultError with what is allowed."""
    match = _FAULT.fullmatch(text)
    kind = ALIASES.get(match["kind"], match["kind"]) if match else ""
    if match is None or kind not in KINDS:
        raise FaultError(
            f"fault {text!r} is not KIND[:RANK][@step:N|@phase:NAME] with KIND one of "
            + ", ".join(KINDS)
        )
    fault = Fault(
        kind=kind,
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


_SIGNS = {"kill-supervisor": Sign.SUPERVISOR, "kill-scheduler": Sign.SCHEDULER}


def explains(record: Mapping[str, Any], suspect: Suspect) -> bool:
    """Whether a drill that was recorded is the cause of a failure."""
    sign = _SIGNS.get(re.split("[:@]", record["fault"])[0])
    if sign is not None:
        return suspect.sign is sign
    return record["rank"] is not None and record["rank"] == suspect.rank
