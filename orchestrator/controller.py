"""The controller of one run: observe, decide, act, until the job has ended.

Everything that it decides is decided by pure functions (`health`, `policy`, `allocate`,
`plan`); everything that it knows is in the journal before it is acted upon. Recovery is
no side path: attempt n + 1 is the same line as attempt 1, entered at `_begin`.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from cluster.allocate import Placement
from cluster.ports import lease_port
from orchestrator import adoption, drill, drill_record, resume, sources, stop_request
from orchestrator.attempt import UnderWay, Unstartable
from orchestrator.attempt_table import BadTable
from orchestrator.checkpoints import Verified
from orchestrator.devices import Allocation, Ask, Devices
from orchestrator.drill.referee import Referee
from orchestrator.ending import TERM_GRACE, Ending
from orchestrator.examiner import Examiner
from orchestrator.found import Found
from orchestrator.gang import Gang
from orchestrator.growth import Grows, Growth
from orchestrator.health import Limits, Sign, Suspect, finished, first_failure
from orchestrator.hearing import silence_of
from orchestrator.journal import JournalError
from orchestrator.judge import Judge
from orchestrator.keeper import CheckpointKeeper
from orchestrator.layout import RunDirectory, Spool, write_json
from orchestrator.ledger import Ledger
from orchestrator.link import Message
from orchestrator.node import LocalNode, NodeError
from orchestrator.orders import HALTS, Order, OrderKind
from orchestrator.plan import Attempt, LaunchPlan, make_plan, needs_port
from orchestrator.recorder import Log, Recorder, Viewer
from orchestrator.slow_ranks import SlowRanks
from orchestrator.spec import JobSpec
from orchestrator.states import FailureClass, JobState
from orchestrator.status import RunView, places, view_from_disk

_TICK = 0.1
_SUPERVISOR_TIMEOUT = 60.0
_ADOPTION_TIMEOUT = 5.0

_HAS_GANG = frozenset({JobState.STARTING, JobState.RUNNING, JobState.UNKNOWN, JobState.STOPPING})


class Outcome(enum.Enum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WAITS = "waits"
    """Stopped for now: held, or in the queue again."""
    PREEMPTED = "preempted"
    """The machine is wanted back: all is saved, and the run is to be resumed."""
    DETACHED = "detached"
    """Nothing was stopped: the next controller takes the run over."""


_OUTCOMES = {
    JobState.CANCELLED: Outcome.CANCELLED,
    JobState.FAILED: Outcome.FAILED,
    JobState.HELD: Outcome.WAITS,
    JobState.QUEUED: Outcome.WAITS,
}


class Watcher(Viewer, Protocol):
    """A viewer who may also look now and then; must not block."""

    def tick(self, controller: Controller) -> None:
        """Time has passed."""


class Interrupted(Exception):
    """Somebody, or a limit, wants the run to stop."""

    def __init__(self, order: Order) -> None:
        super().__init__(order.reason)
        self.order = order


@dataclass
class Controller:
    """Drives one run to its end. `order` and `faults` are set from outside, at any moment.

    `adopts`: an earlier controller of this run has died, and its ranks may live. `ends_at`
    (CLOCK_MONOTONIC) is when `limits.run` is over.
    """

    spec: JobSpec
    directory: RunDirectory
    spool: Spool
    node: LocalNode
    find: Callable[[], Found]
    environment: Mapping[str, str]
    watcher: Watcher
    log: Log
    faults: list[drill.Fault] = field(default_factory=list)
    order: Order | None = None
    adopts: bool = False
    ends_at: float | None = None
    placement: Placement | None = None
    """Where the run is, or where a queue has put it; None: the controller looks for itself."""
    job: str = ""
    """The id of a submitted job; empty: its name."""
    ask: Ask | None = None
    """How a queue is asked for more devices, where there is one."""
    queued: bool = False
    """Whether there is a queue to go back to, when devices or the node cannot be had."""
    rest: float = _TICK
    """Seconds after which it looks around though nothing has arrived."""
    known: Ledger | None = None
    """What the log says, where that has been read already."""

    def __post_init__(self) -> None:
        self._recorder = Recorder(self.log, self.watcher, self.known)
        self._keeper = CheckpointKeeper(
            self.directory,
            self._recorder,
            keep=self.spec.checkpoint.keep,
            after=RunDirectory(self.spec.after) if self.spec.after else None,
            world_size=self.spec.resources.ranks if self._takes_snapshots else 0,
        )
        self._judge = Judge(
            self.spec,
            self._recorder,
            self._keeper,
            self.job or self.spec.name,
            self.job or str(self.directory.root),
        )
        self._devices = Devices(
            self.spec, self.find, self._recorder, self._pump, self.placement, self.ask
        )
        self._slow_ranks = SlowRanks(self._recorder, self._devices)
        self._ending = Ending(self.node, self._recorder, self.directory, self.spool, self._hear)
        self._examiner = Examiner(self.node, self._recorder, self.directory, self._hear)
        self._referee = Referee(self.spec, self._recorder, submitted=self.queued)
        self._growth = Growth(self._devices, self._recorder, self._ending, self._keeper)
        self._came_up = False
        self._recovering = False
        self._lost: Suspect | None = None
        self.way: UnderWay | None = None

    @property
    def _takes_snapshots(self) -> bool:
        return self.spec.checkpoint.snapshot_every_steps is not None

    @property
    def ledger(self) -> Ledger:
        """What is known of the run."""
        return self._recorder.ledger

    def view(self) -> RunView:
        """The run as it is now; may be asked for from any thread."""
        way = self.way
        return RunView(
            job=self.job or self.spec.name,
            directory=self.directory,
            ledger=self.ledger,
            ranks=way.gang.views if way else (),
            places=places(way.gang.plan) if way else {},
            live=True,
            now=time.monotonic(),
            observed_at=time.time(),
        )

    def give(self, order: Order) -> None:
        """Have an order carried out soon; from any thread."""
        self.order = order
        self.node.wake()

    def add_fault(self, fault: drill.Fault) -> None:
        """Have a fault injected when its moment comes; from any thread."""
        self.faults.append(fault)
        self.node.wake()

    # -- the line ---------------------------------------------------------------------------

    def run(self) -> Outcome:
        """One attempt after another until the job has ended; the journal knows why."""
        outcome = self._run()
        if outcome not in (Outcome.DETACHED, Outcome.WAITS):
            with contextlib.suppress(JournalError):
                self._referee.close(self.faults)
        return outcome

    def _run(self) -> Outcome:
        try:
            way, suspect = self._take_over() if self.adopts else (None, None)
            while True:
                way = way or self._begin()
                try:
                    suspect = suspect or self._watch(way)
                except Grows as wish:
                    self._growth.begin(way, str(wish))
                    way, self.way, self._recovering = None, None, True
                    continue
                if suspect is None:
                    return self._succeed(way)
                if not self._recover(way, suspect):
                    return Outcome.FAILED
                way = suspect = None
        except Unstartable as error:
            return self._refuse(error)
        except NodeError as error:
            return self._lose_node(error)
        except Interrupted as interrupted:
            return self._halt(interrupted.order)
        except JournalError as error:
            # A full disk, most likely: nothing may go on unrecorded.
            self._recorder.lose_voice(error)
            return Outcome.DETACHED if self.queued else Outcome.FAILED
        finally:
            self._referee.calm()
            self._devices.close()
            self._keeper.close()

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            self.watcher.tick(self)

    # -- take over --------------------------------------------------------------------------

    def _take_over(self) -> tuple[UnderWay | None, Suspect | None]:
        """Go on where an earlier controller was killed: with its gang, or with what it decided.

        Returns the attempt under way, if there is one, and what it is failing of, if it is.
        """
        self.way = way = adoption.restored(self.ledger, self.directory, self.spec.health.straggler)
        self.placement = way.gang.plan.placement if way else Placement(())
        if adoption.lives(self.ledger.supervisor):
            self.node.await_supervisor(self._pump, _ADOPTION_TIMEOUT)
            self._await_first_look(way)
        if not self.node.supervised:
            adoption.kill(self.ledger.supervisor)  # it does not dial: nobody can command it
        if self.ledger.order is not None:
            raise Interrupted(self.ledger.order)
        if self.ledger.state is JobState.RECOVERING:
            self._recovering = True
            self._judge.reopen()
            return self._without_gang(way)
        if way is None or self._never_started():
            self._skip_attempt()
            return self._without_gang(way)
        plan = way.gang.plan
        self._devices.hold(plan.placement, plan.simulated)
        self.node.hold(plan.placement, simulated=bool(plan.simulated))
        self._judge.reopen()
        if not self.node.supervised:
            way.gang.restore(view_from_disk(self.directory).ranks)
            self._lost = _died(time.monotonic())
        if self._growth.begun():
            self._growth.end(way)
            self._recovering = True
            return self._without_gang(None)
        return way, adoption.suspect_of(self.ledger)

    def _skip_attempt(self) -> None:
        """Go on to the next attempt; what an earlier controller recorded of it is not repeated."""
        reason = f"attempt {self.ledger.attempt} had not been started yet"
        if self.ledger.state is not JobState.STOPPING:
            self._recorder.record("interrupted", reason, state=JobState.STOPPING)
        if self.ledger.ended_attempt != self.ledger.attempt:
            self._recorder.record("attempt_ended", seconds=0.0, steps=0, last_step=0)
        self._recorder.record("next", reason, state=JobState.RECOVERING)

    def _never_started(self) -> bool:
        return self.node.supervised and self.node.started_attempt < self.ledger.attempt

    def _await_first_look(self, way: UnderWay | None) -> None:
        """Judge nobody before the supervisor has told how its ranks are now."""
        deadline = time.monotonic() + _ADOPTION_TIMEOUT
        while way is not None and self.node.supervised and not way.gang.looked_at:
            if self._never_started() or time.monotonic() > deadline:
                return
            self._pump(deadline - time.monotonic())

    def _without_gang(self, way: UnderWay | None) -> tuple[None, None]:
        """See that nothing is left of an attempt before another one begins."""
        if way is not None and self.node.supervised:
            self._ending.stop(way)
        self.way = None
        return None, None

    # -- begin ------------------------------------------------------------------------------

    def _ensure_supervisor(self, found: Found) -> None:
        """Have one before an attempt is begun; its death between attempts costs none.

        The first comes up with Ray. Another is tried as often as class `node` has restarts;
        raises NodeError after that.
        """
        if not self._came_up and not self.node.supervised:
            self._came_up = True
            return self.node.bring_up(found, self._pump)
        tries = (self.spec.restart.budgets[FailureClass.NODE] or 0) + 1
        while not self.node.supervised:
            tries -= 1
            self._lost = None
            try:
                self.node.replace_supervisor(self._pump, _SUPERVISOR_TIMEOUT)
            except NodeError as error:
                if tries <= 0:
                    raise
                self._recorder.record("note", f"another supervisor is tried: {error}")

    def _begin(self) -> UnderWay:
        """Allocate, plan, start. Raises Unstartable before anything was begun."""
        number = max(self.ledger.attempt, *self.directory.attempts(), 0) + 1
        digest = self._sources()
        allocation = self._devices.allocate(recovering=self._recovering)
        self._ensure_supervisor(allocation.found)  # only now: the wait may have been long
        self._lost = None  # one that is lost by now had no part in this attempt
        self.placement = allocation.placement
        self.node.reserve(allocation.placement, self._pump)
        chosen = self._keeper.choose(self.spec.resources.ranks)
        allocated_at = time.monotonic()
        files = self.directory.attempt(number)
        try:
            plan = self._plan(number, allocation, chosen)
            if plan.table is not None:
                plan.table.check()
            files.create()
            stop_request.place(self.spool.stop_request(number))
            for rank in plan.ranks:
                drill_record.place(self.spool.drill(number, rank.assignment.rank))
            write_json(files.plan, plan.to_document())
            if plan.table is not None:
                plan.table.write()
        except BadTable as error:
            raise Unstartable(FailureClass.USER, str(error)) from error
        except OSError as error:
            raise Unstartable(FailureClass.STORAGE, f"attempt {number}: {error}") from error
        self._judge.attempt_begins()
        self.way = way = UnderWay(
            Gang(plan, files, self.spec.health.straggler), chosen, allocated_at
        )
        self._recorder.record(
            "attempt",
            _starting(chosen, plan),
            state=JobState.STARTING,
            attempt=number,
            resumed_step=way.resumed_step,
            resumed_from=str(chosen.path) if chosen else None,
            snapshot=chosen is not None and self._keeper.is_snapshot(chosen),
            digest=chosen.digest if chosen else None,
            world_size=self.spec.resources.ranks,
            ranks=len(plan.ranks),
            checkpoint_world_size=chosen.world_size if chosen else None,
            port=plan.attempt.port,
            sources=digest,
            rank_table=asdict(plan.table.file) if plan.table else None,
            simulated=bool(plan.simulated),
            places=plan.places,
            fallback=dict(self.spec.restart.fallback or ()) if self.ledger.fallback else None,
            notes=[*allocation.found.told, *plan.notes],
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

    def _plan(self, number: int, allocation: Allocation, chosen: Verified | None) -> LaunchPlan:
        simulated = allocation.found.simulated
        port = None
        if needs_port(self.spec, simulated=bool(simulated)):
            port = self.node.hold_port(lease_port())
        return make_plan(
            self.spec.with_fallback() if self.ledger.fallback else self.spec,
            allocation.placement,
            Attempt(
                number,
                self.ledger.run_id,
                chosen.path if chosen else None,
                port,
                self._keeper.snapshots() if self._takes_snapshots else None,
            ),
            self.directory,
            self.spool,
            self.environment,
            facts=allocation.found.facts,
            simulated=simulated,
        )

    # -- watch ------------------------------------------------------------------------------

    def _watch(self, way: UnderWay) -> Suspect | None:
        """Look until the gang has finished (None) or something has failed."""
        health = self.spec.health
        limits = Limits(
            health.phase_timeouts, health.heartbeat_timeout, health.hang, self.ledger.step_p99
        )
        while True:
            observation = way.gang.observe()
            # Of ranks that no supervisor watches, or has looked at yet, silence says nothing.
            seen = self.node.supervised and way.gang.looked_at
            silence = limits if seen else Limits({}, math.inf)
            suspect = self._note_progress(way) or first_failure(observation, silence)
            if suspect is None and finished(observation):
                return None
            if suspect is None:
                suspect, self._lost = self._lost, None
            if suspect and (suspect := self._looked_at(way, suspect, limits)):
                return suspect
            self._slow_ranks.tell(way.gang)
            self._growth.watch(way)
            self._referee.inject(self.faults, self.target, way.gang)
            self._referee.look(way.gang)
            self._pump(self._patience())

    def _looked_at(self, way: UnderWay, suspect: Suspect, limits: Limits) -> Suspect | None:
        """The suspect after a close look; None: its hang was over before the look was."""
        suspect = self._examiner.examine(way, suspect)
        if suspect.sign is Sign.HANG and first_failure(way.gang.observe(), limits) is None:
            self._recorder.record("note", f"no hang: the ranks went on ({suspect.cause})")
            return None
        return suspect

    def _patience(self) -> float:
        """Seconds in which nothing becomes due that no message tells of."""
        if not self._keeper.idle:
            return _TICK
        left = math.inf if self.ends_at is None else self.ends_at - time.monotonic()
        return max(0.0, min(self.rest, left))

    def _pump(self, timeout: float) -> None:
        """Take what has arrived within `timeout` seconds, and let others look."""
        self._hear(timeout)
        if self.order is not None:
            order, self.order = self.order, None
            raise Interrupted(order)
        if self.ends_at is not None and time.monotonic() >= self.ends_at:
            self.ends_at = None
            raise Interrupted(Order(OrderKind.OVERRUN, "limits.run is over"))

    def _hear(self, timeout: float) -> None:
        """The same without obeying anybody: a gang is being ended already."""
        for message in self.node.poll(timeout):
            self._take(message)
        self._look()

    def _take(self, message: Message) -> None:
        kind = message["event"]
        if kind == "supervisor_lost":
            self._lost = _died(message["at"])
        elif kind == "supervisor_silent":
            self._end_silent(message)
        elif kind in ("note", "warmed", "ray_lost", "ray_ready", "supervisor_started"):
            self._recorder.record(
                kind, message.get("text", ""), **_without(message, "event", "text")
            )
        elif self.way is not None and message["attempt"] == self.ledger.attempt:
            self.way.gang.take(message)

    def _end_silent(self, message: Message) -> None:
        """End a supervisor that stands still: one that is lost, and whose ranks nobody watches."""
        cause = silence_of(message)
        self._recorder.record("supervisor_silent", cause, **_without(message, "event"))
        self.node.kill_supervisor()
        if self.way is not None:
            # What its ranks did meanwhile was written and not told.
            self.way.gang.restore(view_from_disk(self.directory).ranks)
        self._lost = Suspect(None, message["at"], Sign.SUPERVISOR, f"{cause}; it was ended")

    def _note_progress(self, way: UnderWay) -> Suspect | None:
        """Journal what has become true: running, a checkpoint, recovered, proven."""
        gang = way.gang
        if not way.running and gang.started:
            way.running = True
            self._recorder.record(
                "running",
                "every rank has a process",
                state=JobState.RUNNING,
                pids=gang.pids(),
                scheduler=gang.scheduler_pid,
            )
        self._keeper.agreed = gang.agreed
        step = max((v.beat.checkpoint_step for v in gang.views if v.beat), default=-1)
        if step > way.checkpoint_step and self._keeper.idle:
            way.checkpoint_step = step
            self._keeper.tend()
        self._keeper.collect()
        if gang.first_step_at is None:
            return None
        if not way.proven:
            way.proven = True
            suspect = self._prove_resume(way)
            if suspect is not None:
                return suspect
        if not way.recovered:
            way.recovered = True
            self._judge.note_recovered(way)
        return None

    def _prove_resume(self, way: UnderWay) -> Suspect | None:
        """Every rank must have loaded the very checkpoint that it was given."""
        if way.chosen is None:
            return None
        files = self.directory.attempt(way.gang.plan.attempt.number)
        first = {v.rank: v.beat.first_step for v in way.gang.views if v.beat}
        proofs = resume.read_proofs(files, sorted(first))
        suspect = resume.contradiction(way.chosen, first, proofs, time.monotonic())
        if suspect is None and proofs:
            self._recorder.record("resumed", resume.summary(proofs[0]), proofs=proofs)
        return suspect

    def target(self) -> drill.Target:
        """What a drill may break."""
        gang = self.way.gang if self.way else None
        views = gang.views if gang else ()
        pids = {v.rank: v.pid for v in views if v.pid is not None and v.exit is None}
        number = self.ledger.attempt
        return drill.Target(
            pids,
            self.node.supervisor_pid,
            self.node.ray_pids(),
            self.directory.checkpoints,
            gang.plan.devices if gang else {},
            gang.plan.simulated if gang else "",
            controller=os.getpid(),
            scheduler=gang.scheduler_pid if gang else None,
            records={view.rank: self.spool.drill(number, view.rank) for view in views},
            stop=self.spool.stop_request(number),
            run_id=self.ledger.run_id,
        )

    # -- ends -------------------------------------------------------------------------------

    def _recover(self, way: UnderWay, suspect: Suspect) -> bool:
        """Stop the gang, find out, decide. True: go on with another attempt."""
        seen_at = way.seen_at or time.monotonic()
        if self.ledger.state is not JobState.STOPPING:
            self._recorder.record(
                "failing",
                suspect.cause,
                state=JobState.STOPPING,
                rank=suspect.rank,
                sign=suspect.sign.value,
                at=suspect.at,
                trusted_step=suspect.trusted_step,
                stepped_before=self.ledger.best_step > 0,
            )
        self._ending.let_leave(way)
        self._ending.stop(way)
        self._ending.record(way)
        placement = way.gang.plan.placement
        faults = self._devices.faults(placement)
        decision = self._judge.judge(
            way,
            suspect,
            self.directory.attempt(self.ledger.attempt),
            seen_at=seen_at,
            device_faults=faults,
            whole=self._devices.whole(placement, faults),
            asked_to_stop=stop_request.asked(self.spool.stop_request(self.ledger.attempt)),
        )
        self._referee.calm()
        self.way = None
        self._recovering = True
        if not decision.retry:
            return False
        self._wait(decision.delay)
        return True

    def _refuse(self, error: Unstartable) -> Outcome:
        """A start that cannot be: no process was begun, so there is nothing to stop."""
        if self.queued and self._recovering and error.failure is FailureClass.DEVICE:
            return self._return(str(error))
        self._recorder.record(
            "refused", str(error), state=JobState.FAILED, failure=error.failure.value
        )
        return Outcome.FAILED

    def _wait(self, delay: float) -> None:
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0:
            self._pump(min(self.rest, left))

    def _succeed(self, way: UnderWay) -> Outcome:
        self._keeper.settle()
        self._ending.stop(way)
        self._ending.record(way)
        if not way.running:
            self._recorder.record("running", "every rank has a process", state=JobState.RUNNING)
        self._recorder.record("succeeded", "every rank is done", state=JobState.SUCCEEDED)
        return Outcome.SUCCEEDED

    def _halt(self, order: Order) -> Outcome:
        """Stop on request: the gang first, then the record."""
        if order.kind is OrderKind.DETACH:
            return Outcome.DETACHED
        halt = HALTS[order.kind]
        if self.way is not None and self.ledger.state in _HAS_GANG:
            if self.ledger.state is not JobState.STOPPING:
                kind = order.kind.value
                self._recorder.record(
                    "stopping",
                    order.reason,
                    state=JobState.STOPPING,
                    order=kind,
                    preempts=order.preempts,
                )
            if not self.node.supervised:
                # Ordered to stop before it dialled: its ranks die with it.
                adoption.kill(self.ledger.supervisor)
            if halt.saves:
                self._ending.let_save(self.way, halt.saves)
            self._ending.stop(self.way, grace=TERM_GRACE)
            self._ending.record(self.way)
            self._keeper.settle()
        if order.kind is not OrderKind.CANCEL:
            self._keeper.promote()  # what ranks that cannot be asked have not saved
        self._recorder.record(halt.event, order.reason, state=halt.state, preempted=order.preempts)
        if order.kind is OrderKind.PREEMPT:
            return Outcome.PREEMPTED
        return _OUTCOMES[halt.state]

    def _return(self, reason: str) -> Outcome:
        """Go back into the queue, before those that were never started."""
        if self.ledger.state is not JobState.QUEUED:
            self._recorder.record("requeued", reason, state=JobState.QUEUED)
        else:
            self._recorder.record("waiting", reason)
        return Outcome.WAITS

    def _lose_node(self, error: NodeError) -> Outcome:
        """The node is of no use any more; what was running on it has ended with it."""
        if self.queued and self.ledger.state in (JobState.QUEUED, JobState.RECOVERING):
            return self._return(str(error))
        if self.ledger.state in (JobState.STARTING, JobState.RUNNING):
            self._recorder.record("failing", str(error), state=JobState.STOPPING)
        self._recorder.record("node_failed", str(error), state=JobState.FAILED)
        return Outcome.FAILED


def _died(at: float) -> Suspect:
    cause = "the node's supervisor died, and its ranks with it"
    return Suspect(None, at, Sign.SUPERVISOR, cause)


def _starting(chosen: Verified | None, plan: LaunchPlan) -> str:
    told = "starting fresh"
    if chosen is not None:
        told = f"resuming from step {chosen.step} ({chosen.digest[:12]})"
    if not plan.world.whole:
        told += f" on {plan.world}"
    if plan.simulated:
        told += " on simulated devices"
    if plan.table is not None:
        told += f", rank table {plan.table.file.sha256[:12]}"
    return told


def _without(message: Message, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in keys}
