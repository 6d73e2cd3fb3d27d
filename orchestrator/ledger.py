"""What is known about a run: a fold over its journal.

The controller and every reading command use the same fold, so what `status` says is what
the controller acted upon, and a controller that comes later knows what the first one knew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.journal import Event
from orchestrator.policy import History
from orchestrator.states import FailureClass, JobState


@dataclass
class Ledger:
    """The run so far. Steps are global and count from 1; times are Unix seconds."""

    state: JobState = JobState.QUEUED
    reason: str = ""
    run_id: str = ""
    epoch: int = 0
    attempt: int = 0
    resumed_step: int = 0
    pids: list[list[int]] = field(default_factory=list)
    supervisor: dict[str, int] | None = None
    sources: str = ""
    best_step: int = 0
    best_at_last_failure: int = 0
    ever_checkpointed: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    counted_seconds: float = 0.0
    last_seconds: float = 0.0
    last_steps: int = 0
    best_step_of_last: int = 0
    checkpoint: dict[str, Any] | None = None
    charged: dict[FailureClass, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    without_gain: int = 0
    failures_in_a_row: int = 0
    first_failures: dict[int, int] = field(default_factory=dict)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    drills: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        """Take one event in; unknown kinds only move the state."""
        if event.state is not None:
            self.state = event.state
            self.reason = event.reason
            self.ended_at = event.time if event.state.terminal else None
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event)

    @property
    def history(self) -> History:
        """What `policy.decide` needs, the newest failure included."""
        return History(dict(self.charged), self.without_gain, self.failures_in_a_row)


def fold(events: Iterable[Event]) -> Ledger:
    """The ledger after these events."""
    ledger = Ledger()
    for event in events:
        ledger.apply(event)
    return ledger


def _controller(ledger: Ledger, event: Event) -> None:
    ledger.run_id = event.data["run_id"]
    ledger.epoch = event.data["epoch"]
    if event.data.get("forgive"):
        # A person looked at it and started it again: the budgets are fresh.
        ledger.charged.clear()
        ledger.without_gain = ledger.failures_in_a_row = 0
        ledger.sources = ""


def _attempt(ledger: Ledger, event: Event) -> None:
    ledger.attempt = event.attempt
    ledger.resumed_step = event.data["resumed_step"]
    ledger.sources = event.data["sources"]
    ledger.pids = []
    if ledger.started_at is None:
        ledger.started_at = event.time
    _count_steps(ledger, ledger.resumed_step)


def _count_steps(ledger: Ledger, kept_up_to: int) -> None:
    """Of the last attempt's training time, count the part whose steps were kept."""
    if ledger.last_steps:
        first = ledger.best_step_of_last - ledger.last_steps
        kept = max(0, min(kept_up_to, ledger.best_step_of_last) - first)
        ledger.counted_seconds += ledger.last_seconds * kept / ledger.last_steps
    ledger.last_steps = 0


def _attempt_ended(ledger: Ledger, event: Event) -> None:
    ledger.last_seconds = event.data["seconds"]
    ledger.last_steps = event.data["steps"]
    ledger.best_step_of_last = event.data["last_step"]
    ledger.best_step = max(ledger.best_step, event.data["last_step"])


def _failure(ledger: Ledger, event: Event) -> None:
    data = event.data
    failure = FailureClass(data["class"])
    if ledger.best_step > ledger.best_at_last_failure:
        ledger.without_gain = 0
        ledger.failures_in_a_row = 0
    ledger.failures_in_a_row += 1
    if not data["free"]:
        ledger.charged[failure] = ledger.charged.get(failure, 0) + 1
        ledger.without_gain += ledger.best_step <= ledger.best_at_last_failure
    ledger.best_at_last_failure = ledger.best_step
    if data["rank"] is not None:
        ledger.first_failures[data["rank"]] = ledger.first_failures.get(data["rank"], 0) + 1
    ledger.incidents.append({"attempt": event.attempt, **data})


def _decision(ledger: Ledger, event: Event) -> None:
    ledger.incidents[-1].update(event.data["incident"])
    if event.data["retry"]:
        name = ledger.incidents[-1]["class"]
        ledger.restarts[name] = ledger.restarts.get(name, 0) + 1


def _recovered(ledger: Ledger, event: Event) -> None:
    ledger.incidents[-1].update(event.data["incident"])


def _checkpoint(ledger: Ledger, event: Event) -> None:
    ledger.ever_checkpointed = True
    ledger.checkpoint = {
        "step": event.data["step"],
        "path": event.data["path"],
        "verified": event.data["verified"],
    }


def _quarantined(ledger: Ledger, event: Event) -> None:
    ledger.ever_checkpointed = True
    if ledger.checkpoint and ledger.checkpoint["path"] == event.data["path"]:
        ledger.checkpoint = None


def _supervisor(ledger: Ledger, event: Event) -> None:
    ledger.supervisor = {"pid": event.data["pid"], "start_time": event.data["start_time"]}


def _running(ledger: Ledger, event: Event) -> None:
    ledger.pids = event.data.get("pids", [])


def _drill(ledger: Ledger, event: Event) -> None:
    ledger.drills.append({**event.data, "attempt": event.attempt})


_HANDLERS = {
    "controller": _controller,
    "attempt": _attempt,
    "supervisor_started": _supervisor,
    "running": _running,
    "attempt_ended": _attempt_ended,
    "failure": _failure,
    "decision": _decision,
    "recovered": _recovered,
    "checkpoint": _checkpoint,
    "quarantined": _quarantined,
    "drill": _drill,
}
