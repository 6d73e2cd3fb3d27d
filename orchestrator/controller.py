"""The controller of one run: observe, decide, act, until the job has ended.

Everything that it decides is decided by pure functions (`health`, `policy`, `allocate`,
`plan`); everything that it knows is in the journal before it is acted upon. Recovery is
no side path: attempt n + 1 is the same line as attempt 1, entered at `_begin`.
"""

from __future__ import annotations

import contextlib
import enum
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.allocate import Placement, Refusal, allocate
from cluster.device import Inventory
from cluster.ports import lease_port
from orchestrator import drill, evidence, incident, resume, sources
from orchestrator.checkpoints import Broken, Verified
from orchestrator.gang import Gang
from orchestrator.health import Limits, Sign, Suspect, finished, first_failure
from orchestrator.journal import Event, Journal, JournalError, read_events
from orchestrator.layout import RunDirectory, Spool, write_json
from orchestrator.ledger import Ledger
from orchestrator.link import Message
from orchestrator.node import LocalNode, NodeError
from orchestrator.plan import Attempt, LaunchPlan, make_plan, request_for
from orchestrator.policy import Decision, Finding, classify, decide
from orchestrator.spec import JobSpec, LaunchMode
from orchestrator.states import FailureClass, JobState
from orchestrator.vault import Tended, Vault

_TICK = 0.1
_STOP_TIMEOUT = 30.0
_SUPERVISOR_TIMEOUT = 60.0
_CANCEL_GRACE = 10.0


class Outcome(enum.Enum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Watcher(Protocol):
    """Somebody who is shown what goes on; must not block."""

    def event(self, event: Event) -> None:
        """Something was recorded."""

    def tick(self, controller: Controller) -> None:
        """Time has passed."""


@dataclass
class _Way:
    """The attempt under way and what is needed to account for its end."""

    gang: Gang
    chosen: Verified | None
    allocated_at: float
    running: bool = False
    recovered: bool = False
    proven: bool = False
    checkpoint_step: int = -1

    @property
    def resumed_step(self) -> int:
        return self.chosen.step if self.chosen else 0


@dataclass
class _Fault:
    """The failure that the attempt under way recovers from."""

    at: float
    steps_before: int


class Interrupted(Exception):
    """Somebody asked the controller to stop (SIGINT, SIGTERM)."""


class Unstartable(Exception):
    """An attempt that cannot begin, and what kind of failure that is."""

    def __init__(self, failure: FailureClass, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


@dataclass
class Controller:
    """Drives one run to its end. `interrupted` is set from outside (a signal handler)."""

    spec: JobSpec
    directory: RunDirectory
    spool: Spool
    node: LocalNode
    inventory: Callable[[], Inventory]
    environment: Mapping[str, str]
    watcher: Watcher
    faults: list[drill.Fault] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    interrupted: str | None = None

    def __post_init__(self) -> None:
        self._journal = Journal(self.directory.events, self.directory.reserve)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._vault = Vault(self.directory, keep=self.spec.checkpoint.keep)
        self._checking: Future[Tended] | None = None
        self._noted: set[str] = set()
        self._fault: _Fault | None = None
        self._oom_before = evidence.oom_kills()
        self._supervisor_lost_at: float | None = None
        self.way: _Way | None = None
        for event in read_events(self.directory.events):
            self.ledger.apply(event)

    # -- the line ---------------------------------------------------------------------------

    def run(self) -> Outcome:
        """One attempt after another until the job has ended; the journal knows why."""
        try:
            self.node.wait_ready(self._pump)
            while True:
                self._ensure_supervisor()
                way = self._begin()
                suspect = self._watch(way)
                if suspect is None:
                    return self._succeed(way)
                if not self._recover(way, suspect):
                    return Outcome.FAILED
        except Unstartable as error:
            return self._refuse(error)
        except NodeError as error:
            return self._lose_node(error)
        except Interrupted as reason:
            return self._cancel(str(reason))
        except JournalError as error:
            # A full disk, most likely: nothing may go on unrecorded.
            return self._give_up(error)
        finally:
            self._worker.shutdown(wait=True)

    def record(self, kind: str, reason: str = "", **fields: Any) -> None:
        """Journal an event, take it into the ledger, show it."""
        state = fields.get("state")
        now = self.ledger.state
        if state not in (None, now) and not now.may_become(state):
            raise RuntimeError(f"{now.value} may not become {state.value}")
        fields.setdefault("attempt", self.ledger.attempt)
        event = self._journal.append(kind, reason, **fields)
        self.ledger.apply(event)
        self._show(event)

    def _show(self, event: Event) -> None:
        # A terminal that is gone must not cost a run.
        with contextlib.suppress(OSError):
            self.watcher.event(event)

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            self.watcher.tick(self)

    # -- begin ------------------------------------------------------------------------------

    def _ensure_supervisor(self) -> None:
        """Have one before an attempt is planned; its death between attempts costs none.

        Tried as often as class `node` has restarts; raises NodeError after that.
        """
        tries = (self.spec.restart.budgets[FailureClass.NODE] or 0) + 1
        while not self.node.supervised:
            tries -= 1
            self._supervisor_lost_at = None
            try:
                self.node.replace_supervisor(self._pump, _SUPERVISOR_TIMEOUT)
            except NodeError as error:
                if tries <= 0:
                    raise
                self.record("note", f"another supervisor is tried: {error}")

    def _begin(self) -> _Way:
        """Allocate, plan, start. Raises Unstartable before anything was begun."""
        number = max(self.ledger.attempt, *self.directory.attempts(), 0) + 1
        digest = self._sources()
        placement = self._allocate()
        chosen = self._choose_checkpoint()
        allocated_at = time.monotonic()
        files = self.directory.attempt(number)
        try:
            plan = self._plan(number, placement, chosen)
            files.create()
            write_json(files.plan, plan.to_document())
        except OSError as error:
            raise Unstartable(FailureClass.STORAGE, f"attempt {number}: {error}") from error
        self._oom_before = evidence.oom_kills()
        self.way = way = _Way(Gang(plan, files), chosen, allocated_at)
        self.record(
            "attempt",
            _starting(chosen),
            state=JobState.STARTING,
            attempt=number,
            resumed_step=way.resumed_step,
            resumed_from=str(chosen.path) if chosen else None,
            digest=chosen.digest if chosen else None,
            port=plan.attempt.port,
            sources=digest,
            notes=list(plan.notes),
        )
        self.node.start(number, plan)
        return way

    def _sources(self) -> str:
        """The digest of the job's code; code that changed under a running job is refused."""
        digest = sources.digest(self.spec)
        if self.ledger.sources and self.ledger.sources != digest:
            raise Unstartable(
                FailureClass.USER,
                "the job's sources changed since its last attempt, so this would be another run "
                f"and not its continuation; `muster resume {self.directory.root}` takes the new "
                "code on purpose",
            )
        return digest

    def _allocate(self) -> Placement:
        placement = allocate(self.inventory(), request_for(self.spec))
        if isinstance(placement, Refusal):
            raise Unstartable(FailureClass.USER, placement.reason)
        return placement

    def _choose_checkpoint(self) -> Verified | None:
        """The newest checkpoint that verifies; None for a fresh start; never scratch by chance."""
        if self._checking is not None:
            self._checking.exception()
            self._take_checked()
        self._vault.sweep()
        chosen: Verified | None = None
        try:
            for result in self._vault.newest(self.spec.resources.ranks):
                if isinstance(result, Broken):
                    self._quarantine(result)
                else:
                    chosen = result
                    self._note_checkpoint(result)
        except OSError as error:
            raise Unstartable(
                FailureClass.STORAGE, f"the checkpoints cannot be read: {error}"
            ) from error
        if chosen is None and self.ledger.ever_checkpointed:
            raise Unstartable(
                FailureClass.STORAGE,
                "no checkpoint of this run can be used, and it will not start from scratch by "
                f"itself; the broken ones are in {self.directory.quarantine}",
            )
        return chosen

    def _quarantine(self, broken: Broken) -> None:
        try:
            target = self._vault.quarantine(broken)
        except OSError as error:
            raise Unstartable(
                FailureClass.STORAGE, f"{broken.path} is broken and cannot be moved: {error}"
            ) from error
        self._noted.discard(str(broken.path))
        self.record(
            "quarantined",
            f"checkpoint of step {broken.step} cannot be used: {broken.reason}",
            step=broken.step,
            path=str(broken.path),
            moved_to=str(target),
        )

    def _plan(self, number: int, placement: Placement, chosen: Verified | None) -> LaunchPlan:
        port = None
        if self.spec.launch.mode is LaunchMode.DYNAMIC:
            port = self.node.hold_port(lease_port())
        attempt = Attempt(number, self.ledger.run_id, chosen.path if chosen else None, port)
        return make_plan(
            self.spec, placement, attempt, self.directory, self.spool, self.environment
        )

    # -- watch ------------------------------------------------------------------------------

    def _watch(self, way: _Way) -> Suspect | None:
        """Look until the gang has finished (None) or something has failed."""
        limits = Limits(self.spec.health.phase_timeouts, self.spec.health.heartbeat_timeout)
        while True:
            observation = way.gang.observe()
            suspect = self._note_progress(way) or first_failure(observation, limits)
            if suspect is None and finished(observation):
                return None
            suspect = suspect or self._supervisor_lost()
            if suspect is not None:
                return suspect
            self._drill(way)
            self._pump(_TICK)

    def _pump(self, timeout: float) -> None:
        """Take what has arrived within `timeout` seconds, and let others look."""
        for message in self.node.poll(timeout):
            self._take(message)
        self._look()
        if self.interrupted is not None:
            reason, self.interrupted = self.interrupted, None
            raise Interrupted(reason)

    def _take(self, message: Message) -> None:
        kind = message["event"]
        if kind == "supervisor_lost":
            self._supervisor_lost_at = message["at"]
        elif kind in ("note", "warmed", "ray_lost", "ray_ready", "supervisor_started"):
            self.record(kind, message.get("text", ""), **_without(message, "event", "text"))
        elif self.way is not None and message["attempt"] == self.ledger.attempt:
            self.way.gang.take(message)

    def _supervisor_lost(self) -> Suspect | None:
        if self._supervisor_lost_at is None:
            return None
        at, self._supervisor_lost_at = self._supervisor_lost_at, None
        cause = "the node's supervisor died, and its ranks with it"
        return Suspect(None, at, Sign.SUPERVISOR, cause)

    def _note_progress(self, way: _Way) -> Suspect | None:
        """Journal what has become true: running, a checkpoint, recovered, proven."""
        gang = way.gang
        if not way.running and gang.started:
            way.running = True
            self.record(
                "running", "every rank has a process", state=JobState.RUNNING, pids=gang.pids()
            )
        step = max((v.beat.checkpoint_step for v in gang.views if v.beat), default=-1)
        if step > way.checkpoint_step and self._checking is None:
            way.checkpoint_step = step
            self._check_in_background()
        self._take_checked()
        if gang.first_step_at is None:
            return None
        if not way.proven:
            way.proven = True
            suspect = self._prove_resume(way)
            if suspect is not None:
                return suspect
        if not way.recovered:
            way.recovered = True
            self._note_recovered(way)
        return None

    def _prove_resume(self, way: _Way) -> Suspect | None:
        """Every rank must have loaded the very checkpoint that it was given."""
        if way.chosen is None:
            return None
        files = self.directory.attempt(way.gang.plan.attempt.number)
        first = {v.rank: v.beat.first_step for v in way.gang.views if v.beat}
        proofs = resume.read_proofs(files, sorted(first))
        suspect = resume.contradiction(way.chosen, first, proofs, time.monotonic())
        if suspect is None and proofs:
            self.record("resumed", resume.summary(proofs[0]), proofs=proofs)
        return suspect

    def _note_recovered(self, way: _Way) -> None:
        if self._fault is None:
            return
        fault, self._fault = self._fault, None
        split = incident.recovered(
            way.gang,
            fault_at=fault.at,
            allocated_at=way.allocated_at,
            steps_before=fault.steps_before,
            resumed_step=way.resumed_step,
        )
        reason = f"first new step {split['first_step_after']:.1f} s after the fault"
        self.record("recovered", reason, incident=split)

    def _drill(self, way: _Way) -> None:
        """Inject the faults whose moment has come."""
        for fault in [f for f in self.faults if drill.due(f, way.gang.views)]:
            self.faults.remove(fault)
            at = time.monotonic()
            try:
                drill.inject(fault, self.target())
            except (drill.FaultError, OSError) as error:
                self.record("note", f"drill {fault}: {error}")
            else:
                # Afterwards: a record takes the disk's time, which is not the fault's.
                self.record("drill", str(fault), fault=str(fault), rank=fault.rank, at=at)

    def target(self) -> drill.Target:
        """What a drill may break."""
        views = self.way.gang.views if self.way else ()
        pids = {v.rank: v.pid for v in views if v.pid is not None and v.exit is None}
        return drill.Target(
            pids, self.node.supervisor_pid, self.node.ray_pids(), self.directory.checkpoints
        )

    # -- checkpoints ------------------------------------------------------------------------

    def _check_in_background(self) -> None:
        """Verify what is new and retire what is old, without stopping to look at the gang."""
        if self._checking is None:
            self._checking = self._worker.submit(self._vault.tend)

    def _take_checked(self) -> None:
        if self._checking is None or not self._checking.done():
            return
        (results, retired, problem), self._checking = self._checking.result(), None
        for result in results:
            self._note_checkpoint(result)
        for path in retired:
            self.record("retired", f"{path.name} deleted: newer ones are verified", path=str(path))
        if problem:
            self.record("note", problem)

    def _note_checkpoint(self, result: Verified | Broken) -> None:
        if str(result.path) in self._noted:
            return
        self._noted.add(str(result.path))
        broken = result.reason if isinstance(result, Broken) else None
        self.record(
            "checkpoint",
            f"step {result.step}: {broken}" if broken else f"step {result.step} verified",
            step=result.step,
            path=str(result.path),
            digest=result.digest if isinstance(result, Verified) else None,
            verified=broken is None,
        )

    def _settle_checking(self) -> None:
        """Finish verifying before the end is reported."""
        for _ in range(2):  # what is being looked at now, and what has come since
            self._check_in_background()
            if self._checking is not None:
                self._checking.exception()
            self._take_checked()

    # -- ends -------------------------------------------------------------------------------

    def _recover(self, way: _Way, suspect: Suspect) -> bool:
        """Stop the gang, find out, decide. True: go on with another attempt."""
        seen_at = time.monotonic()
        self.record("failing", suspect.cause, state=JobState.STOPPING, rank=suspect.rank)
        self._stop(way, grace=0.0)
        suspect = self._blame(way, suspect)
        stepped_before = self.ledger.best_step > 0
        self._end_attempt(way)
        decision = self._judge(way, suspect, seen_at, stepped_before=stepped_before)
        self.way = None
        if not decision.retry:
            return False
        self._wait(decision.delay)
        return True

    def _blame(self, way: _Way, suspect: Suspect) -> Suspect:
        """The earliest sign among all that came in until the gang was down."""
        earlier = first_failure(way.gang.observe(), Limits({}, math.inf))
        return earlier if earlier is not None and earlier.at < suspect.at else suspect

    def _judge(
        self, way: _Way, suspect: Suspect, seen_at: float, *, stepped_before: bool
    ) -> Decision:
        view = way.gang.view(suspect.rank)
        files = self.directory.attempt(way.gang.plan.attempt.number)
        found = evidence.collect(
            suspect,
            view,
            files,
            stepped_before=stepped_before,
            lived=way.gang.lived,
            oom_killed=self._oom_happened(),
        )
        finding = classify(found, self.spec.restart.rules)
        if found.bad_checkpoint and way.chosen is not None:
            # It verified, but a rank could not load it: never offer it again.
            self._quarantine(Broken(way.chosen.path, way.chosen.step, found.error_message))
        fault_at, source = self._fault_time(suspect)
        lost = self._fault.steps_before if self._fault else 0
        self._fault = _Fault(fault_at, max(lost, way.gang.last_step))
        document = incident.opened(
            job=self.spec.name,
            attempt=self.ledger.attempt,
            suspect=suspect,
            finding=finding,
            evidence=evidence.describe(suspect, found, view),
            gang=way.gang,
            fault_at=fault_at,
            fault_source=source,
            seen_at=seen_at,
        )
        self.record("failure", _headline(suspect, finding), **document)
        return self._decide(finding)

    def _decide(self, finding: Finding) -> Decision:
        decision = decide(finding, self.ledger.history, self.spec.restart)
        reason = decision.reason
        if not decision.retry:
            reason = f"{self.ledger.incidents[-1]['cause']}; {decision.reason}"
        self.record(
            "decision",
            reason,
            state=JobState.RECOVERING if decision.retry else JobState.FAILED,
            retry=decision.retry,
            incident=incident.decided(decision),
        )
        return decision

    def _refuse(self, error: Unstartable) -> Outcome:
        """A start that cannot be: no process was begun, so there is nothing to stop."""
        self.record("refused", str(error), state=JobState.FAILED, failure=error.failure.value)
        return Outcome.FAILED

    def _fault_time(self, suspect: Suspect) -> tuple[float, str]:
        """When the fault happened: by the drill's clock if there was one, else by its sign."""
        meant = [
            event.data["at"]
            for event in read_events(self.directory.events)
            if event.kind == "drill"
            and event.attempt == self.ledger.attempt
            and drill.explains(event.data, suspect)
            and event.data["at"] <= suspect.at
        ]
        return (meant[-1], "drill") if meant else (suspect.at, suspect.sign.value)

    def _oom_happened(self) -> bool:
        now = evidence.oom_kills()
        before, self._oom_before = self._oom_before, now
        return before is not None and now is not None and now > before

    def _stop(self, way: _Way, *, grace: float) -> None:
        """End the gang and wait until every process of it is gone."""
        way.gang.stopped_at = None
        if self.node.supervised:
            self.node.stop(self.ledger.attempt, grace)
            deadline = time.monotonic() + grace + _STOP_TIMEOUT
            while way.gang.stopped_at is None and self.node.supervised:
                for message in self.node.poll(_TICK):
                    self._take(message)
                self._look()
                if time.monotonic() > deadline:
                    # Its ranks die with it; its successor clears what escaped.
                    self.node.kill_supervisor()
        if way.gang.stopped_at is None:
            way.gang.stopped_at = time.monotonic()
        self.node.release_port()
        if way.gang.stuck:
            self.record("note", "processes that do not die", stuck=way.gang.stuck)

    def _end_attempt(self, way: _Way) -> None:
        seconds, steps = way.gang.training_seconds()
        # Evidence only: a full disk must not turn one failure into another.
        with contextlib.suppress(OSError):
            write_json(self.directory.attempt(self.ledger.attempt).beats, way.gang.last_beats())
        self.record(
            "attempt_ended", seconds=seconds, steps=steps, last_step=max(0, way.gang.last_step)
        )

    def _wait(self, delay: float) -> None:
        until = time.monotonic() + delay
        while time.monotonic() < until:
            self._pump(min(_TICK, delay))

    def _succeed(self, way: _Way) -> Outcome:
        self._settle_checking()
        self._stop(way, grace=0.0)
        self._end_attempt(way)
        if not way.running:
            self.record("running", "every rank has a process", state=JobState.RUNNING)
        self.record("succeeded", "every rank is done", state=JobState.SUCCEEDED)
        return Outcome.SUCCEEDED

    def _cancel(self, reason: str) -> Outcome:
        """Stop on request: the gang first, then the record."""
        if self.way is not None and self.ledger.state in (JobState.STARTING, JobState.RUNNING):
            self.record("stopping", reason, state=JobState.STOPPING)
            self._stop(self.way, grace=_CANCEL_GRACE)
            self._end_attempt(self.way)
            self._settle_checking()
        self.record("cancelled", reason, state=JobState.CANCELLED)
        return Outcome.CANCELLED

    def _lose_node(self, error: NodeError) -> Outcome:
        """The node is of no use any more; what was running on it has ended with it."""
        if self.ledger.state in (JobState.STARTING, JobState.RUNNING):
            self.record("failing", str(error), state=JobState.STOPPING)
        self.record("node_failed", str(error), state=JobState.FAILED)
        return Outcome.FAILED

    def _give_up(self, error: JournalError) -> Outcome:
        self._show(
            Event(
                time.time(),
                "unrecorded",
                self.ledger.attempt,
                JobState.FAILED,
                f"the run cannot be recorded any more: {error}",
                {},
            )
        )
        return Outcome.FAILED


def _starting(chosen: Verified | None) -> str:
    if chosen is None:
        return "starting fresh"
    return f"resuming from step {chosen.step} ({chosen.digest[:12]})"


def _headline(suspect: Suspect, finding: Finding) -> str:
    who = "" if suspect.rank is None else f"rank {suspect.rank}: "
    return f"{who}{suspect.cause}; class {finding.failure.value} ({finding.rule})"


def _without(message: Message, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in keys}
