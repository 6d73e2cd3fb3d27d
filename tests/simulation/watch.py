"""What must hold at every event of a history, looked at from outside.

Nothing here asks the ledger: charges, states and checkpoints are counted anew, from what was
recorded and from what really happened on the machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.journal import Event
from orchestrator.spec import JobSpec
from orchestrator.states import JOB_MOVES, FailureClass, JobState
from tests.simulation.ranks import Process

_AT_REST = frozenset(
    {
        JobState.RECOVERING,
        JobState.QUEUED,
        JobState.HELD,
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }
)
"""States in which no rank of the job may run."""


class Broken(AssertionError):
    """Something does not hold."""


@dataclass
class Watch:
    """Sees every event and every process of one history."""

    spec: JobSpec
    now: object = None
    told: list[str] = field(default_factory=list)
    state: JobState = JobState.QUEUED
    attempt: int = 0
    epoch: int = 0
    living: list[Process] = field(default_factory=list)
    ordered: set[int] = field(default_factory=set)
    harms: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    charged: Counter[str] = field(default_factory=Counter)
    judged: set[int] = field(default_factory=set)
    decided: set[int] = field(default_factory=set)
    failure: Mapping[str, object] | None = None
    failures: int = 0
    whole: set[int] = field(default_factory=set)
    """Steps of finished checkpoints that nothing has harmed since."""
    ever: set[int] = field(default_factory=set)
    """Steps of all finished checkpoints."""
    finished: bool = False
    """Every rank of the newest attempt has made the last step."""

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            raise Broken(what)

    # -- the machine ------------------------------------------------------------------------

    def harm(self, *classes: str) -> None:
        """A fault that may end the attempt under way, and what it may be called."""
        self.harms[self.attempt].update(classes)

    def saved(self, step: int) -> None:
        self.whole.add(step)
        self.ever.add(step)

    def start_ordered(self, attempt: int) -> None:
        """A controller has told the node to start an attempt."""
        self._must(attempt not in self.ordered, f"attempt {attempt} is started twice")
        self._must(attempt == self.attempt, f"attempt {attempt} starts and is not on record")
        self.ordered.add(attempt)

    def process_started(self, process: Process, living: list[Process]) -> None:
        for other in living:
            same = (other.attempt, other.rank) == (process.attempt, process.rank)
            self._must(other.attempt == process.attempt, "two gangs are alive at once")
            self._must(other is process or not same, f"rank {process.rank} runs twice")
        self.living = living

    def process_ended(self, process: Process) -> None:
        self.living = [one for one in self.living if one is not process]

    # -- the record -------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Something was recorded."""
        if event.state is not None:
            self._moves(event.state)
        look = getattr(self, f"_on_{event.kind}", None)
        if look is not None:
            look(event)

    def _moves(self, state: JobState) -> None:
        legal = state is self.state or state in JOB_MOVES[self.state]
        self._must(legal, f"{self.state.value} became {state.value}")
        self.state = state
        running = [one for one in self.living if one.alive and not one.orphan]
        if state in _AT_REST:
            self._must(not running, f"{state.value}, but {len(running)} processes run")

    def _on_controller(self, event: Event) -> None:
        self._must(event.data["epoch"] >= self.epoch, "the epoch went back")
        self.epoch = event.data["epoch"]

    def _on_again(self, event: Event) -> None:
        self.charged.clear()

    def _on_requeued(self, event: Event) -> None:
        self.charged["preemption"] += bool(event.data.get("preempted"))

    def _on_attempt(self, event: Event) -> None:
        self._must(event.attempt > self.attempt, f"attempt {event.attempt} after {self.attempt}")
        newest = max(self.whole, default=0)
        step = event.data["resumed_step"]
        self._must(step == newest, f"resumed from step {step}, but {newest} was there whole")
        self.attempt, self.finished = event.attempt, False

    def _on_failure(self, event: Event) -> None:
        name = event.data["class"]
        self._must(event.attempt not in self.judged, f"attempt {event.attempt} is judged twice")
        known = self.harms[event.attempt]
        self._must(name in known, f"blamed as {name}: {event.reason}; what happened: {known}")
        self.judged.add(event.attempt)
        self.failures += 1
        self.failure = event.data
        self.charged[name] += not event.data["free"]

    def _on_decision(self, event: Event) -> None:
        self._must(event.attempt in self.judged, "a decision without a failure")
        self._must(event.attempt not in self.decided, f"attempt {event.attempt} is decided twice")
        self.decided.add(event.attempt)
        assert self.failure is not None
        name = str(self.failure["class"])
        budget = self.spec.restart.budgets[FailureClass(name)]
        spent = budget is not None and self.charged[name] > budget
        if name == "user" and not budget:
            spent = True
        if event.data["retry"]:
            self._must(not spent, f"restarted although the budget of {name} is used up")
        elif not spent:
            enough = self.failures >= min(self.spec.restart.no_progress, 20)
            told = "no_progress" in event.reason or "in a row" in event.reason
            if "it is deterministic" in event.reason:
                enough = told = self.failures >= 2
            self._must(enough and told, f"ended with budget left: {event.reason}")
        left = event.data["incident"]["budget_left"]
        if budget is not None and not (spent and name == "user"):
            right = max(0, budget - self.charged[name])
            self._must(left == right, f"{left} restarts left by the record, {right} by count")

    def _on_retired(self, event: Event) -> None:
        step = int(event.data["path"].rpartition("-")[2])
        self._must(step < max(self.ever), "retention deletes the newest checkpoint")
        self.whole.discard(step)

    def _on_refused(self, event: Event) -> None:
        if "no checkpoint of this run" in event.reason:
            self._must(not self.whole, f"refused, but {sorted(self.whole)} were there whole")

    def _on_succeeded(self, event: Event) -> None:
        self._must(self.finished, "succeeded, but the last step was never made by all ranks")
