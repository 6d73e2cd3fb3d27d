"""What is known about a run: a fold over its journal.

The controller and every reading command use the same fold, so what `status` says is what
the controller acted upon, and a controller that comes later knows what the first one knew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.journal import Event
from orchestrator.orders import Order, OrderKind
from orchestrator.states import FailureClass, JobState
from orchestrator.verdicts import History
from orchestrator.world import World


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
    places: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Node and device (`kind:index`) of every rank of the newest attempt."""
    supervisor: dict[str, Any] | None = None
    """Its identity: pid, start_time, boot_id."""
    spool: dict[str, str] | None = None
    entered_at: float | None = None
    """When a controller last took it out of the queue; one that adopts it does not count."""
    attempt_at: float | None = None
    chosen: dict[str, Any] | None = None
    """What the newest attempt resumes from: path, step, digest, world_size; None: fresh."""
    suspect: dict[str, Any] | None = None
    """What the newest attempt is failing of, until it is judged."""
    order: Order | None = None
    """What a person or the head wants of a job and has not got yet."""
    ended_attempt: int = 0
    judged_attempt: int = 0
    proven_attempt: int = 0
    sources: str = ""
    best_step: int = 0
    best_at_last_failure: int = 0
    ever_checkpointed: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    trained: list[tuple[int, int, float]] = field(default_factory=list)
    """(first step, last step, seconds) of what was trained and not yet trained again."""
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By path: what is known of each checkpoint that is still there."""
    charged: dict[FailureClass, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    without_gain: int = 0
    failures_in_a_row: int = 0
    first_failures: dict[int, int] = field(default_factory=dict)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    drills: list[dict[str, Any]] = field(default_factory=list)
    blamed: dict[str, str] = field(default_factory=dict)
    """Devices whose fault a failure was, by key, with the cause: avoided where others will do."""
    stragglers: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Ranks of the newest attempt that are slower than their peers now: factor and reason."""
    slow_devices: dict[str, str] = field(default_factory=dict)
    """Devices of ranks that were stragglers to the end, by key: the next attempt may avoid them."""
    simulated: bool | None = None
    """Whether the ranks' devices are a rehearsal node's; None before the first attempt."""
    charged_at: dict[FailureClass, float] = field(default_factory=dict)
    """What `counted_seconds` was when a class was charged last."""
    signed: list[tuple[str, int, int]] = field(default_factory=list)
    """Signature, step and how many steps that may be off, of failures since a person came."""
    fallback: bool = False
    """Whether attempts have the arguments of `restart.fallback`."""
    decided: dict[str, Any] = field(default_factory=dict)
    """The newest decision: action, row, delay, may_shrink, fallback; empty before the first."""
    heard_at: float | None = None
    """When the newest event was recorded."""
    scheduler_pid: int | None = None
    """The rendezvous scheduler of the newest attempt, where it has one."""
    world: World | None = None
    """How many processes compute how many ranks in the newest attempt, where that was told."""
    growing: int = 0
    """The newest attempt that was ended to go on at full size."""
    growths: int = 0

    agreed: tuple[int, ...] = ()
    """Steps that may be the last at which all ranks agreed; empty where no digests were told."""

    step_p99: float | None = None
    """What 99 of 100 steps of the last attempt that made steps took at most, in seconds."""

    def apply(self, event: Event) -> None:
        """Take one event in; unknown kinds only move the state."""
        self.heard_at = event.time
        if event.state is not None:
            self.state = event.state
            self.reason = event.reason
            self.ended_at = event.time if event.state.terminal else None
            if self.order is not None and self.order.kind not in _STILL_OPEN.get(event.state, _ALL):
                self.order = None
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event)

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint that is there."""
        return max(self.checkpoints.values(), key=lambda known: known["step"], default=None)

    @property
    def counted_seconds(self) -> float:
        """Training time of ended attempts whose steps were kept."""
        return sum(seconds for _, _, seconds in self.trained)

    @property
    def history(self) -> History:
        """What `policy.decide` needs, the newest failure included."""
        return History(
            dict(self.charged),
            self.without_gain,
            self.failures_in_a_row,
            repeats=self._repeats(),
            fallback_used=self.fallback,
            seed=f"{self.run_id}/{self.attempt}",
        )

    def _repeats(self) -> int:
        """How often the newest failure was seen at its step; 1 if it can be no repetition."""
        if not self.signed or not self.incidents or not self.incidents[-1].get("signature"):
            return 1
        name, step, blur = self.signed[-1]
        return sum(
            name == other and abs(step - at) <= max(blur, off) for other, at, off in self.signed
        )

    def given_back(self, failure: FailureClass, after: float | None) -> int:
        """Charges of a class that `after` seconds of training without it have made up for.

        All of them or none. Training counts as far as its steps do: those that are lost do not,
        and waiting or failing is no training.
        """
        trained = self.counted_seconds - self.charged_at.get(failure, 0.0)
        return self.charged.get(failure, 0) if after is not None and trained >= after else 0


def fold(events: Iterable[Event]) -> Ledger:
    """The ledger after these events."""
    ledger = Ledger()
    for event in events:
        ledger.apply(event)
    return ledger


def _controller(ledger: Ledger, event: Event) -> None:
    ledger.run_id = event.data["run_id"]
    ledger.epoch = event.data["epoch"]
    ledger.spool = event.data.get("spool")
    if event.state is not None:
        ledger.entered_at = event.time
    if event.data.get("forgive"):
        _forgive(ledger, event)


def _forgive(ledger: Ledger, _: Event) -> None:
    """A person looked at it and started it again: the budgets are fresh."""
    ledger.charged.clear()
    ledger.charged_at.clear()
    ledger.signed.clear()
    ledger.fallback = False
    ledger.without_gain = ledger.failures_in_a_row = 0
    ledger.sources = ""
    ledger.blamed.clear()
    ledger.slow_devices.clear()


def _requeued(ledger: Ledger, event: Event) -> None:
    if event.data.get("preempted"):
        preemption = FailureClass.PREEMPTION
        _charge(ledger, preemption)
        ledger.restarts[preemption.value] = ledger.restarts.get(preemption.value, 0) + 1


def _attempt(ledger: Ledger, event: Event) -> None:
    ledger.attempt = event.attempt
    ledger.resumed_step = event.data["resumed_step"]
    ledger.sources = event.data["sources"]
    if ledger.agreed:  # all ranks load the same
        ledger.agreed = (ledger.resumed_step,)
    ledger.pids = []
    ledger.attempt_at = event.time
    ledger.places = {rank: (node, device) for rank, node, device in event.data.get("places", ())}
    ledger.stragglers = {}
    ledger.suspect = None
    ledger.chosen = None
    if event.data.get("resumed_from"):
        ledger.chosen = {
            "path": event.data["resumed_from"],
            "step": event.data["resumed_step"],
            "digest": event.data["digest"],
            "world_size": _of_checkpoint(event.data),
        }
    size = event.data.get("ranks")
    ledger.world = World(event.data["world_size"], size) if size else None
    ledger.simulated = event.data.get("simulated", False)
    ledger.best_step = max(ledger.best_step, ledger.resumed_step)
    if ledger.started_at is None:
        ledger.started_at = event.time
    ledger.trained = [
        _cut(segment, ledger.resumed_step)
        for segment in ledger.trained
        if segment[0] <= ledger.resumed_step
    ]
    # What was lost counts when it is trained again, as if it had never been trained before.
    counted = ledger.counted_seconds
    ledger.charged_at = {cls: min(at, counted) for cls, at in ledger.charged_at.items()}


def _of_checkpoint(data: dict[str, Any]) -> int:
    """The ranks of the checkpoint; earlier attempts told no other world size than this."""
    size: int = data.get("checkpoint_world_size") or data.get("world_size", 0)
    return size


def _growing(ledger: Ledger, event: Event) -> None:
    ledger.growing = event.attempt
    ledger.growths += 1


def _cut(segment: tuple[int, int, float], last: int) -> tuple[int, int, float]:
    """The part of a stretch of training up to step `last`, with its share of the time."""
    first, end, seconds = segment
    kept = min(end, last)
    return first, kept, seconds * (kept - first + 1) / (end - first + 1)


def _failing(ledger: Ledger, event: Event) -> None:
    ledger.suspect = {"cause": event.reason, **event.data}


def _ordered(ledger: Ledger, event: Event) -> None:
    order = event.data.get("order")
    preempts = event.data.get("preempts", False)
    ledger.order = Order(OrderKind(order), event.reason, preempts) if order else None


def _resumed(ledger: Ledger, event: Event) -> None:
    ledger.proven_attempt = event.attempt


def _attempt_ended(ledger: Ledger, event: Event) -> None:
    ledger.ended_attempt = event.attempt
    steps, last = event.data["steps"], event.data["last_step"]
    if steps:
        ledger.trained.append((last - steps + 1, last, event.data["seconds"]))
    ledger.best_step = max(ledger.best_step, last)
    ledger.step_p99 = event.data.get("step_p99") or ledger.step_p99
    ledger.agreed = tuple(event.data.get("agreed") or ledger.agreed)


def _charge(ledger: Ledger, failure: FailureClass) -> None:
    ledger.charged[failure] = ledger.charged.get(failure, 0) + 1
    ledger.charged_at[failure] = ledger.counted_seconds


def _failure(ledger: Ledger, event: Event) -> None:
    data = event.data
    ledger.judged_attempt = event.attempt
    failure = FailureClass(data["class"])
    if ledger.best_step > ledger.best_at_last_failure:
        ledger.without_gain = 0
        ledger.failures_in_a_row = 0
    ledger.failures_in_a_row += 1
    if data.get("replenished"):
        ledger.charged.pop(failure, None)
    if not data["free"]:
        _charge(ledger, failure)
        ledger.without_gain += ledger.best_step <= ledger.best_at_last_failure
    ledger.best_at_last_failure = ledger.best_step
    if data["rank"] is not None:
        ledger.first_failures[data["rank"]] = ledger.first_failures.get(data["rank"], 0) + 1
    if failure.blames_device and data["device"]:
        ledger.blamed[f"{data['node']}/{data['device']}"] = data["cause"]
    ledger.incidents.append({"attempt": event.attempt, **data})
    if data.get("signature"):
        ledger.signed.append((data["signature"], data["step"], data.get("step_blur", 0)))


def _decision(ledger: Ledger, event: Event) -> None:
    ledger.incidents[-1].update(event.data["incident"])
    ledger.decided = dict(event.data.get("decision", {}))
    if ledger.decided.get("fallback"):
        ledger.fallback = True
        ledger.without_gain = 0  # other arguments: what the old ones failed to gain is no sign
    if event.data["retry"]:
        name = ledger.incidents[-1]["class"]
        ledger.restarts[name] = ledger.restarts.get(name, 0) + 1


def _recovered(ledger: Ledger, event: Event) -> None:
    ledger.incidents[-1].update(event.data["incident"])


def _checkpoint(ledger: Ledger, event: Event) -> None:
    ledger.ever_checkpointed = True
    ledger.best_step = max(ledger.best_step, event.data["step"])
    ledger.checkpoints[event.data["path"]] = {
        "step": event.data["step"],
        "path": event.data["path"],
        "verified": event.data["verified"],
    }
    ledger.agreed = tuple(event.data.get("agreed") or ledger.agreed)


def _quarantined(ledger: Ledger, event: Event) -> None:
    ledger.ever_checkpointed = True
    ledger.checkpoints.pop(event.data["path"], None)


def _anew(ledger: Ledger, _: Event) -> None:
    ledger.ever_checkpointed = False


def _retired(ledger: Ledger, event: Event) -> None:
    ledger.checkpoints.pop(event.data["path"], None)


def _supervisor(ledger: Ledger, event: Event) -> None:
    ledger.supervisor = {key: event.data[key] for key in ("pid", "start_time", "boot_id")}


def _running(ledger: Ledger, event: Event) -> None:
    ledger.pids = event.data.get("pids", [])
    ledger.scheduler_pid = event.data.get("scheduler")


def _waiting(ledger: Ledger, event: Event) -> None:
    ledger.reason = event.reason


def _straggler(ledger: Ledger, event: Event) -> None:
    data = event.data
    key = f"{data.get('node')}/{data.get('device')}"
    if data.get("over"):
        ledger.stragglers.pop(data["rank"], None)
        ledger.slow_devices.pop(key, None)
    else:
        found = {"factor": data["factor"], "reason": data["likely"]}
        ledger.stragglers[data["rank"]] = found
        ledger.slow_devices[key] = f"its rank was slow: {data['likely']}"


def _drill(ledger: Ledger, event: Event) -> None:
    ledger.drills.append({**event.data, "attempt": event.attempt})


_ALL = frozenset(OrderKind)
_STILL_OPEN = {
    JobState.QUEUED: frozenset({OrderKind.HOLD, OrderKind.CANCEL}),
    JobState.HELD: frozenset({OrderKind.CANCEL}),
    **{state: frozenset() for state in JobState if state.terminal},
}
"""Orders that a move to a state leaves to be obeyed; all, where a job still holds devices."""

_HANDLERS = {
    "controller": _controller,
    "attempt": _attempt,
    "supervisor_started": _supervisor,
    "running": _running,
    "failing": _failing,
    "growing": _growing,
    "stopping": _ordered,
    "ordered": _ordered,
    "resumed": _resumed,
    "attempt_ended": _attempt_ended,
    "failure": _failure,
    "decision": _decision,
    "recovered": _recovered,
    "checkpoint": _checkpoint,
    "promoted": _checkpoint,
    "quarantined": _quarantined,
    "retired": _retired,
    "anew": _anew,
    "straggler": _straggler,
    "drill": _drill,
    "waiting": _waiting,
    "again": _forgive,
    "requeued": _requeued,
}
