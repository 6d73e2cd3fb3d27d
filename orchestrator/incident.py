"""The record of one failure: when it was seen, what it cost, and the split of the way back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from orchestrator.gang import Gang
from orchestrator.health import Suspect
from orchestrator.states import FailureClass
from orchestrator.verdicts import Decision, Finding

_PARTS = {"joined_after": "join", "loaded_after": "load", "compiled_after": "compile"}
"""A part of the way back is over when the last rank has left its phase."""


def opened(
    *,
    job: str,
    attempt: int,
    suspect: Suspect,
    finding: Finding,
    evidence: list[str],
    gang: Gang,
    fault_at: float,
    fault_source: str,
    seen_at: float,
    signature: str | None = None,
    step: int = 0,
    step_blur: int = 0,
    replenished: int = 0,
) -> dict[str, Any]:
    """The incident when the gang is down. Times `…_after` are seconds since the fault.

    `step`: the last that the failed rank finished, or was resumed from, and `step_blur` how far
    that may be off; `replenished`: charges of the class given back before this one.
    """
    place = next((r for r in gang.plan.ranks if r.assignment.rank == suspect.rank), None)
    stopped = gang.stopped_at
    return {
        "job": job,
        "attempt": attempt,
        "class": finding.failure.value,
        "rank": suspect.rank,
        "node": place.assignment.node if place else None,
        "device": f"{place.assignment.device.kind.value}:{place.assignment.device.index}"
        if place
        else None,
        "cause": suspect.cause,
        "evidence": evidence,
        "fault_at": round(time.time() - (time.monotonic() - fault_at), 3),
        "fault_at_source": fault_source,
        "detected_after": _since(seen_at, fault_at),
        "stopped_after": _since(stopped, fault_at),
        "allocated_after": None,
        "joined_after": None,
        "loaded_after": None,
        "compiled_after": None,
        "first_step_after": None,
        "steps_lost": None,
        "decision": None,
        "rule": finding.rule,
        "budget_left": None,
        "free": finding.free,
        "step": step,
        "step_blur": step_blur,
        "signature": signature,
        "replenished": replenished,
        "action": None,
        "policy": None,
    }


def finding_of(document: Mapping[str, Any]) -> Finding:
    """What an incident was found to be, for a controller that has to decide upon it anew."""
    failure = FailureClass(document["class"])
    return Finding(failure, document["rule"], free=document["free"])


def decided(decision: Decision) -> dict[str, Any]:
    """What the decision adds to the incident."""
    return {
        "decision": ("restart" if decision.retry else "stop") + f": {decision.reason}",
        "budget_left": "unlimited" if decision.budget_left is None else decision.budget_left,
        "action": decision.action.value,
        "policy": decision.row,
    }


def chosen(decision: Decision) -> dict[str, Any]:
    """The decision for the journal: what the next attempt needs of it, and what explains it."""
    return {
        "action": decision.action.value,
        "row": decision.row,
        "delay": round(decision.delay, 4),
        "may_shrink": decision.may_shrink,
        "fallback": decision.fallback,
    }


def recovered(
    gang: Gang, *, fault_at: float, allocated_at: float, steps_before: int, resumed_step: int
) -> dict[str, Any]:
    """What the first new step adds: the split, in the order of the way back."""
    return {
        "allocated_after": _since(allocated_at, fault_at),
        **{name: _since(gang.left(phase), fault_at) for name, phase in _PARTS.items()},
        "first_step_after": _since(gang.first_step_at, fault_at),
        "steps_lost": max(0, steps_before - resumed_step),
    }


def _since(at: float | None, origin: float) -> float | None:
    return None if at is None else round(max(0.0, at - origin), 4)
