"""What must hold at every event of a history, looked at from outside.

Nothing here asks the ledger: charges, states and checkpoints are counted anew, from what was
recorded and from what really happened on the machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.journal import Event
from orchestrator.spec import JobSpec
from orchestrator.states import JOB_MOVES, FailureClass, JobState
from orchestrator.world import LOOK_EVERY, settled_after
from tests.simulation.clock import Clock
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

_LOOKS_TAKE = 90.0
"""Seconds after which what was seen, decided and waited for before is over."""


class Broken(AssertionError):
    """Something does not hold."""


@dataclass
class Watch:
    """Sees every event and every process of one history."""

    spec: JobSpec
    clock: Clock
    every: int
    """Steps from one checkpoint to the next."""
    can_grow: bool
    """Whether its ranks can be asked to save themselves."""
    enough_devices: Callable[[], bool] = lambda: True
    well_since: float | None = 0.0
    """Since when there are devices for all ranks; None: there are not."""
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
    snapshots: dict[Path, int] = field(default_factory=dict)
    """Steps of slots that every rank has sealed, and nobody has touched since."""
    reached: int = 0
    """The last step that the newest attempt has made, or began with."""
    promise: int = 0
    """How many steps the death of the newest attempt's processes may cost."""
    excused: bool = False
    """Since that attempt began, what was saved was harmed, or given up by a person."""
    quiet_since: float = 0.0
    """When something last happened that may keep a job from growing."""
    size: int = 0
    """Ranks of the newest attempt."""
    small_since: float | None = None
    """When the newest attempt, in a smaller world, made its first step."""
    growing: bool = False
    resumed_snapshots: int = 0
    promoted: int = 0
    shrunk: int = 0
    grown: int = 0

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            raise Broken(what)

    # -- the machine ------------------------------------------------------------------------

    def harm(self, *classes: str) -> None:
        """A fault that may end the attempt under way, and what it may be called."""
        self.harms[self.attempt].update(classes)

    def saved(self, step: int) -> None:
        """Rank 0 has finished a checkpoint."""
        self.whole.add(step)
        self.ever.add(step)

    def stepped(self, step: int) -> None:
        """Every rank has made a step, and none is in the next one."""
        if self.size < self.spec.resources.ranks and self.small_since is None:
            self.small_since = self.clock.now
        self.reached = step

    def shoots(self, every: int | None) -> None:
        """The attempt under way takes snapshots from now on; None: no more."""
        if every is None:
            self.excused = True
        else:
            self.promise = min(every, self.promise)

    def slot_opened(self, slot: Path) -> None:
        """A rank writes over what was there."""
        self.snapshots.pop(slot, None)

    def slot_sealed(self, slot: Path, step: int) -> None:
        """The last rank has sealed it."""
        self.snapshots[slot] = step

    def lose_saved(self, slot: Path | None = None) -> None:
        """A snapshot is harmed, or all of them are gone with the tmpfs."""
        self.excused = True
        if slot is None:
            self.snapshots.clear()
        else:
            self.snapshots.pop(slot, None)

    def disturb(self) -> None:
        """Something has happened that a job may wait for, or be slow at."""
        self.quiet_since = self.clock.now

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
        self._nothing_lost(event)
        self._right_size(event.data["ranks"])
        self.attempt, self.finished = event.attempt, False
        self.reached = event.data["resumed_step"]
        self.promise, self.excused = self.every, False
        self.small_since, self.growing = None, False

    def _nothing_lost(self, event: Event) -> None:
        """By what is there, and apart from that by what was promised."""
        gone = [step for slot, step in self.snapshots.items() if not slot.exists()]
        self.snapshots = {slot: step for slot, step in self.snapshots.items() if slot.exists()}
        replaced = max(gone, default=0) <= max(self.ever, default=0)
        self._must(replaced or self.excused, f"the snapshot of step {max(gone, default=0)} is gone")
        newest = max((*self.whole, *self.snapshots.values()), default=0)
        step = event.data["resumed_step"]
        self._must(step == newest, f"resumed from step {step}, but {newest} was there whole")
        if event.data["snapshot"]:
            self.resumed_snapshots += 1
            known = {str(slot): step for slot, step in self.snapshots.items()}
            sealed = known.get(event.data["resumed_from"]) == step
            self._must(sealed, f"the snapshot of step {step} was not sealed by all")
        lost = self.reached - step
        kept = self.excused or lost <= self.promise
        self._must(kept, f"{lost} steps are lost, at most {self.promise} may be")

    def _right_size(self, size: int) -> None:
        """Of the world: permitted, and full unless devices are lacking."""
        ranks = self.spec.resources.ranks
        allowed = ranks % size == 0 and size >= self.spec.restart.min_ranks
        self._must(allowed, f"{size} processes compute {ranks} ranks")
        quiet = self.clock.now - self.quiet_since > _LOOKS_TAKE and self.well_since is not None
        lacking = not quiet or self.clock.now - (self.well_since or 0) < _LOOKS_TAKE
        self._must(size == ranks or lacking, f"{size} of {ranks} ranks though all devices are well")
        self.shrunk += size < ranks
        self.size = size

    def _on_growing(self, event: Event) -> None:
        self._must(self.size < self.spec.resources.ranks, "a full world grows")
        self._must(self.enough_devices(), "it grows into devices that are not there")
        self.growing = True
        self.grown += 1

    def _on_attempt_ended(self, event: Event) -> None:
        """What could have grown for a long time has."""
        if not self.can_grow or self.small_since is None or self.growing or self.well_since is None:
            return
        since = max(self.small_since + settled_after(self.grown), self.well_since, self.quiet_since)
        waits = self.clock.now - since
        late = waits > LOOK_EVERY + _LOOKS_TAKE
        self._must(not late, f"all devices are there for {waits:.0f} s, and it does not grow")

    def _on_cancelled(self, event: Event) -> None:
        self.excused = True

    def _on_checkpoint(self, event: Event) -> None:
        """Also of a promotion whose controller was killed before it could record that."""
        if event.data["verified"] and event.data["step"] in self.snapshots.values():
            self.saved(event.data["step"])

    def _on_promoted(self, event: Event) -> None:
        step = event.data["step"]
        self._must(step in self.snapshots.values(), f"step {step} is promoted, and was not sealed")
        self.promoted += 1
        self.saved(step)

    def _on_failure(self, event: Event) -> None:
        name = event.data["class"]
        self._must(event.attempt not in self.judged, f"attempt {event.attempt} is judged twice")
        known = self.harms[event.attempt]
        self._must(name in known, f"blamed as {name}: {event.reason}; what happened: {known}")
        self._must(not self.growing, "to grow is called a failure")
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
