"""The queue at work: a thread that decides, again and again, who starts, and has it done."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cluster.allocate import Placement, Refusal, Request
from cluster.ascend.place import NoSuchNode
from orchestrator.controller import Outcome
from orchestrator.journal import Event
from orchestrator.orders import Order, OrderKind
from orchestrator.queueing import Decisions, Quota, Running, schedule
from orchestrator.queueing.growing import grown
from orchestrator.queueing.records import running_of, waiting_of
from orchestrator.service.drive import Drive
from orchestrator.service.line import Line
from orchestrator.service.stock import Stock
from orchestrator.states import FailureClass, JobState
from orchestrator.store import Store
from orchestrator.store.errors import Moved, StoreError
from orchestrator.store.values import JobRecord, happened

_PERIOD = 5.0
_REST = 4.0  # a pass may take a fifth of the time, whatever it costs
_UNKNOWN_PERIOD = 0.1
_BACKOFF = (5.0, 300.0)

log = logging.getLogger("muster.queue")


@dataclass(frozen=True)
class Place:
    """A waiting job's place in the whole line, counted from 1, and why it waits.

    `position` None: it does not stand in the line at the moment.
    """

    position: int | None
    reason: str


class Yard(Protocol):
    """Who drives jobs."""

    @property
    def drives(self) -> tuple[Drive, ...]:
        """All jobs that are being driven."""

    def driven(self, job: str) -> bool:
        """Whether a job is being driven, to its very end."""

    def drive(self, record: JobRecord, placement: Placement | None) -> None:
        """Start to drive a job."""

    def record(self, record: JobRecord, event: Event) -> None:
        """Make a move of a job known that nobody drives. Raises Moved, StoreError."""


class Queue:
    """Passes over the line when something has changed, and every few seconds."""

    def __init__(
        self, store: Store, epoch: int, stock: Stock, quotas: tuple[Quota, ...], yard: Yard
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._stock = stock
        self._quotas = quotas
        self._yard = yard
        self._line = Line(store)
        self._decisions = Decisions()
        self._resting: dict[str, tuple[int, float, str]] = {}
        self._running: dict[str, tuple[Any, Running]] = {}
        self._deciding = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._seconds = 0.0
        self._due = math.inf
        """When the next wait is over (Unix seconds)."""
        self._trouble = ""

    # -- from other threads -----------------------------------------------------------------

    def start(self) -> None:
        """Begin to start jobs."""
        self._thread = threading.Thread(target=self._work, name="queue", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Start no more; returns when the pass under way is over."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Something has changed."""
        self._wake.set()

    def ended(self, drive: Drive) -> None:
        """A drive is over: its devices are free. What failed by no fault of its own rests."""
        returned = drive.outcome is Outcome.WAITS and not drive.stopping
        if drive.error is not None or returned:
            count = self._resting.get(drive.job, (0, 0.0, ""))[0] + 1
            first, most = _BACKOFF
            delay = min(most, first * 2 ** (count - 1))
            why = str(drive.error) if drive.error else "its node or its devices were lost"
            self._resting[drive.job] = (count, time.monotonic() + delay, why)
        else:
            self._resting.pop(drive.job, None)
        self._wake.set()

    @property
    def places(self) -> Mapping[str, Place]:
        """Where every waiting job stands, and why."""
        return _Places(self._decisions, self._resting)

    def state(self) -> dict[str, Any]:
        """How the queue is, for health."""
        return {
            "waiting": len(self._decisions.reasons),
            "pass_seconds": round(self._seconds, 4),
            "trouble": self._trouble or None,
        }

    def running(self) -> list[Running]:
        """All that holds devices."""
        known: dict[str, tuple[Any, Running]] = {}
        for drive in self._yard.drives:
            placement = drive.placement
            if placement is None:
                continue
            says = (placement, drive.stopping, _preemptible(drive))
            kept = self._running.get(drive.job)
            known[drive.job] = kept if kept and kept[0] == says else (says, _running(drive, says))
        self._running = known
        return [one for _, one in known.values()]

    # -- the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                with self._deciding:
                    self._pass()
                self._trouble = ""
            except StoreError as error:
                self._trouble = str(error)
            except Exception as error:
                # A mistake of ours must not end the queue for good, nor go unnoticed.
                self._trouble = f"{type(error).__name__}: {error}"
                log.exception("a pass of the queue failed")
            self._seconds = time.monotonic() - began
            self._stopped.wait(self._seconds * _REST)
            self._wake.wait(max(0.0, min(_PERIOD, self._due - time.time())))
            self._wake.clear()

    def _pass(self) -> None:
        self._adopt_again()
        if any(one.placement is None for one in self._yard.drives):
            # What an adopted job holds is not known yet: nothing may be given away.
            self._due = time.time() + _UNKNOWN_PERIOD
            return
        records = self._records()
        waiting = self._line.waiting(records.values())
        ends = (one.since + one.wait_limit for one in waiting if one.wait_limit is not None)
        self._due = min(ends, default=math.inf)
        running = self.running()
        cluster = self._stock.cluster({record.device for record in records.values()})
        decisions = schedule(waiting, running, self._quotas, cluster, time.time())
        self._decisions = decisions
        for start in decisions.starts:
            if self._stopped.is_set():
                return
            self._yard.drive(records[start.job], start.placement)
        drives = {drive.job: drive for drive in self._yard.drives}
        for preemption in decisions.preemptions:
            if preemption.job in drives:
                reason = f"makes room for {preemption.needed_by}, which has a higher priority"
                drives[preemption.job].give(Order(OrderKind.REQUEUE, reason, preempts=True))
        for job in decisions.expired:
            self._expire(records[job])

    def _records(self) -> dict[str, JobRecord]:
        """The jobs that wait."""
        return {record.job: record for record in self._store.waiting() if self._free(record)}

    def grow(self, drive: Drive, request: Request) -> Placement | Refusal:
        """All the devices of a job that runs on fewer, held for it from now on, or why not yet."""
        with self._deciding:
            try:
                answer = self._grown(drive, request)
            except (StoreError, NoSuchNode) as error:
                return Refusal(str(error))
            if isinstance(answer, Placement):
                drive.hold(answer)
            return answer

    def _grown(self, drive: Drive, request: Request) -> Placement | Refusal:
        holds = drive.placement
        if holds is None or any(one.placement is None for one in self._yard.drives):
            return Refusal("what other jobs hold is not known yet")
        if len(holds.assignments) >= request.ranks:
            return holds  # it was given them before, and has not got there yet
        records, now = self._records(), time.time()
        cluster = self._stock.cluster_without(
            holds, request.kind, (record.device for record in records.values())
        )
        waiting = self._line.waiting(records.values())
        job = waiting_of(drive.record, request)
        if job.run_limit is not None:
            job = replace(job, run_limit=max(0.0, drive.began_at + job.run_limit - now))
        return grown(job, waiting, self.running(), self._quotas, cluster, now)

    def _free(self, record: JobRecord) -> bool:
        """Whether a waiting job can be thought of now."""
        resting = self._resting.get(record.job)
        return not self._yard.driven(record.job) and (
            resting is None or time.monotonic() >= resting[1]
        )

    def _adopt_again(self) -> None:
        """Take up jobs that hold devices and whose drive ended by a mistake or a full disk."""
        for job, (_, until, _) in tuple(self._resting.items()):
            if time.monotonic() < until or self._yard.driven(job):
                continue
            record = self._store.job(job)
            if record.state.holds_devices:
                self._yard.drive(record, None)

    def _expire(self, record: JobRecord) -> None:
        reason = f"limits.wait is over: no devices within {record.wait_limit:g} s"
        event = happened("expired", reason, attempt=record.attempt, state=JobState.FAILED)
        # An order that came since it was looked at goes before.
        with contextlib.suppress(Moved):
            self._yard.record(record, event)


def _running(drive: Drive, says: tuple[Placement, bool, bool]) -> Running:
    placement, stopping, preemptible = says
    return running_of(
        drive.record,
        drive.spec,
        placement,
        drive.began_at,
        preemptible=preemptible,
        stopping=stopping,
    )


def _preemptible(drive: Drive) -> bool:
    budget = drive.spec.restart.budgets[FailureClass.PREEMPTION]
    if budget is None or drive.controller is None:
        return drive.controller is not None
    return drive.controller.ledger.charged.get(FailureClass.PREEMPTION, 0) < budget


class _Places(Mapping[str, Place]):
    """Places put into words when they are asked for: ten thousand wait, and few are looked at."""

    def __init__(self, decisions: Decisions, resting: Mapping[str, tuple[int, float, str]]) -> None:
        self._decisions = decisions
        self._resting = resting

    def __getitem__(self, job: str) -> Place:
        if job in self._decisions.reasons:
            return Place(self._decisions.positions[job], self._decisions.reasons[job])
        _, until, why = self._resting[job]
        left = max(0.0, until - time.monotonic())
        return Place(None, f"{why}; tried again in {left:.0f} s")

    def __iter__(self) -> Any:
        yield from self._decisions.reasons
        yield from (job for job in self._resting if job not in self._decisions.reasons)

    def __len__(self) -> int:
        return sum(1 for _ in self)
