"""The head: every job that was submitted, what becomes of it, and what can be asked of it.

All methods may be called from any thread; those that write return when it is durable.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from orchestrator import drill as drills
from orchestrator import orders, status
from orchestrator.found import Found
from orchestrator.job_ray import NodeRay
from orchestrator.jobfile import JobFileError, from_document
from orchestrator.journal import Event
from orchestrator.layout import RunDirectory
from orchestrator.ledger import fold
from orchestrator.orders import NotTaken, Order, OrderKind, Refused
from orchestrator.queueing import quota_file
from orchestrator.queueing.quota_file import Queues
from orchestrator.service import remains
from orchestrator.service.drive import Drive, Surroundings
from orchestrator.service.news import News
from orchestrator.service.queue import Place, Queue
from orchestrator.service.stock import Stock
from orchestrator.service.store_log import StoreLog, copy_line
from orchestrator.spec import JobSpec
from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store.errors import Moved, NoSuchJob
from orchestrator.store.values import Filter, JobRecord, Page, Submission, happened

__all__ = ["Head", "Place"]

_MOVES = {
    OrderKind.CANCEL: ("cancelled", JobState.CANCELLED),
    OrderKind.HOLD: ("held", JobState.HELD),
    OrderKind.RELEASE: ("released", JobState.QUEUED),
    OrderKind.RESUME: ("again", JobState.QUEUED),
}
_DONE = {
    OrderKind.CANCEL: "cancelled",
    OrderKind.HOLD: "held",
    OrderKind.RELEASE: "released",
    OrderKind.RESUME: "resumed",
}
_HOLDING = frozenset(state for state in JobState if state.holds_devices)
_LOOKS_PER_SECOND = 1250.0
_DETACH_PATIENCE = 20.0
_LARGEST_PAGE = 10_000

log = logging.getLogger("muster.head")


class HeadRay(Protocol):
    """One Ray that all jobs of a head share."""

    @property
    def address(self) -> str | None:
        """Where it answers; None while it does not."""

    @property
    def state(self) -> dict[str, Any]:
        """How it is, for health."""

    def start(self, resources: Mapping[str, float], *, simulated: bool = False) -> None:
        """Begin to bring it up; returns at once."""

    def for_job(self, job: str) -> NodeRay:
        """A job's part of it."""

    def close(self) -> None:
        """Take it down."""


class Head:
    """The one controller of a store. `begin` starts to drive; `close` ends."""

    def __init__(
        self,
        store: Store,
        runs: Path,
        environment: Mapping[str, str],
        ray: HeadRay | None = None,
        queues: Queues | None = None,
    ) -> None:
        """`ray` is asked for nothing before `begin`; `queues`: None is only `default`."""
        self._queues = queues or Queues()
        self.store = store
        self.runs = runs
        self.environment = environment
        self.epoch = store.begin_epoch()
        self.news = News()
        self.accepting = True
        self._ray = ray
        self._stock = Stock(environment)
        self._lock = threading.Lock()
        self._drives: dict[str, Drive] = {}
        self._to_adopt = 0
        self._queue = Queue(store, self.epoch, self._stock, self._queues.quotas, self)
        self._around = Surroundings(
            store=store,
            epoch=self.epoch,
            news=self.news,
            environment=environment,
            ray_for=self._ray_for,
            find_for=self._find_for,
            pace=self._pace,
            ended=self._ended,
            grow=self._queue.grow,
        )

    # -- taking in --------------------------------------------------------------------------

    def submit(
        self, spec: JobSpec, text: bytes, *, user: str, key: str | None = None
    ) -> Future[JobRecord]:
        """Take a validated job in; the future is done when it is durable.

        Raises NotTaken, KeyReused, StoreFull; JobFileError for a queue that it may not be in.
        """
        quota_file.check(self._queues, spec.queue, "job")
        if not self.accepting:
            raise NotTaken("this controller is going down and takes no jobs in")
        submission = Submission.of(spec, text, runs=self.runs, user=user, key=key)
        future = self.store.submit_soon(submission, epoch=self.epoch)
        future.add_done_callback(self._tell_submitted)
        return future

    def _tell_submitted(self, future: Future[JobRecord]) -> None:
        if future.exception() is None:
            record = future.result()
            self.news.tell(record.job, record.last_event)
            self._queue.wake()

    # -- asking -----------------------------------------------------------------------------

    def job(self, job: str) -> JobRecord:
        """Raises NoSuchJob."""
        return self.store.job(job)

    def spec(self, job: str) -> JobSpec:
        """What was submitted, as it was understood. Raises NoSuchJob."""
        return from_document(self.store.job_file(job).spec, surroundings=False)

    def directory(self, job: str) -> RunDirectory:
        """Where the job's logs and checkpoints are; absent before its first start."""
        return RunDirectory(Path(self.job(job).run_dir))

    def status(self, job: str) -> dict[str, Any]:
        """The document of `muster status --json`. Raises NoSuchJob."""
        record = self.store.job(job)
        drive = self._drives.get(job)
        controller = drive.controller if drive else None
        view = controller.view() if controller else status.view_from_disk(self.directory(job))
        place = self.waiting().get(job)
        return {
            **status.document(view),
            "job": job,
            "name": record.name,
            "state": record.state.value,
            "reason": place.reason if place else record.reason,
            "queue": record.queue,
            "priority": record.priority,
            "position": place.position if place else None,
            "last_event": record.last_event,
        }

    def waiting(self) -> Mapping[str, Place]:
        """By job: its place in the line and why it waits, as of the last pass of the queue."""
        return self._queue.places

    def health(self) -> dict[str, Any]:
        """How the controller itself is: its Ray, its store, what it drives."""
        drives = list(self._drives.values())
        return {
            "epoch": self.epoch,
            "accepting": self.accepting,
            "jobs": {state.value: count for state, count in self.store.counts().items()},
            "driven": len(drives),
            "ray": self._ray.state if self._ray else None,
            "ray_address": self.ray_address,
            "queue": self._queue.state(),
            "stalled": {drive.job: drive.stalled for drive in drives if drive.stalled},
            "warnings": list(self.store.warnings),
        }

    @property
    def ray_address(self) -> str | None:
        """Where the Ray of this head answers; None while it does not."""
        return self._ray.address if self._ray else None

    # -- ordering ---------------------------------------------------------------------------

    def order(self, job: str, kind: OrderKind, by: str) -> JobRecord:
        """Have something become of a job; a running one obeys soon after.

        Raises NoSuchJob, Refused.
        The order is durable when this returns, whatever dies before it is carried out.
        """
        with self._lock:
            while True:
                record = self.store.job(job)
                orders.check(kind, record.state, job)
                drive = self._drives.get(job)
                waits = record.state is JobState.QUEUED and drive is not None
                try:
                    if record.state.holds_devices or waits:
                        self._order_drive(drive, record, kind, by)
                    else:
                        self._move(record, kind, by)
                    break
                except Moved:
                    continue  # its controller was faster
        self._queue.wake()
        return self.store.job(job)

    def _move(self, record: JobRecord, kind: OrderKind, by: str) -> None:
        name, state = _MOVES[kind]
        reason = f"{_DONE[kind]} by {by}"
        event = happened(name, reason, attempt=record.attempt, state=state)
        self.record(record, event)

    def _order_drive(
        self, drive: Drive | None, record: JobRecord, kind: OrderKind, by: str
    ) -> None:
        """Have its controller obey: this one, or the one that takes it over after a mishap."""
        reason = f"{_DONE[kind]} by {by}"
        event = happened("ordered", reason, attempt=record.attempt, order=kind.value)
        self.record(record, event)
        if drive is not None:
            drive.give(Order(kind, reason))

    def record(self, record: JobRecord, event: Event) -> None:
        """Make a move of a job known that nobody drives. Raises Moved, StoreError."""
        told = self.store.transition(record.job, event, seen=record.state, epoch=self.epoch)
        self.news.tell(record.job, told.sequence)
        copy_line(RunDirectory(Path(record.run_dir)), event)

    def drill(self, job: str, fault: str) -> None:
        """Break a running job on purpose. Raises NoSuchJob, Refused, drill.FaultError."""
        record = self.store.job(job)
        parsed = drills.parse(fault, record.ranks)
        drive = self._drives.get(job)
        controller = drive.controller if drive else None
        if controller is None or not record.state.holds_devices:
            raise Refused(f"{job} is {record.state.value}: only a running job can be broken")
        controller.add_fault(parsed)

    # -- driving ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Adopt what runs already, then drive the queue."""
        if self._ray is not None:
            resources, simulated = self._stock.offered()
            self._ray.start(resources, simulated=simulated)
        page = self.store.jobs(Filter(states=_HOLDING), Page(limit=_LARGEST_PAGE))
        self._to_adopt = len(page.jobs)
        for record in page.jobs:
            self.drive(record, None)
        self._to_adopt = 0
        holding = {record.job for record in page.jobs}
        remains.clear(self.runs, lambda job: job in holding, self._settle)
        self._queue.start()

    def _settle(self, job: str) -> None:
        """Do for a job what its killed controller still owed it: its journal, and an order."""
        with contextlib.suppress(NoSuchJob):
            directory = self.directory(job)
            kept = StoreLog(self.store, job, epoch=self.epoch, directory=directory, news=self.news)
            order = fold(kept.events()).order
            if order is not None:
                self._carry_out_late(job, order)

    def drive(self, record: JobRecord, placement: Any) -> None:
        """Start to drive a job, on this placement or on what it has already."""
        file = self.store.job_file(record.job)
        try:
            spec = from_document(file.spec, surroundings=False)
        except JobFileError as error:
            return self._fail(record, f"the job cannot be read as it was submitted: {error}")
        drive = Drive(record, spec, file.text, self._around, placement)
        with self._lock:
            # An order may have come since the queue has looked; from here on it goes to the drive.
            if record.job in self._drives or self.store.job(record.job).state is not record.state:
                return
            self._drives[record.job] = drive
        drive.start()

    def _fail(self, record: JobRecord, reason: str) -> None:
        """End a waiting job that cannot be driven; ranks of one that runs are left alone."""
        if record.state is not JobState.QUEUED:
            log.error("job %s: %s", record.job, reason)
            return
        self.record(
            record,
            happened("refused", reason, attempt=record.attempt, state=JobState.FAILED),
        )

    @property
    def drives(self) -> tuple[Drive, ...]:
        """All jobs that are being driven."""
        return tuple(self._drives.copy().values())

    def driven(self, job: str) -> bool:
        """Whether a job is being driven, to its very end."""
        return job in self._drives

    def _ended(self, drive: Drive) -> None:
        with self._lock:
            self._drives.pop(drive.job, None)
        if drive.error is not None:
            log.error("job %s is not driven any more", drive.job, exc_info=drive.error)
        self._queue.ended(drive)
        left = drive.left_order
        if left is not None and left.kind in _MOVES:
            self._carry_out_late(drive.job, left)

    def _carry_out_late(self, job: str, order: Order) -> None:
        """An order that came when another one was being carried out already."""
        if self.store.job(job).state.holds_devices:
            return  # whoever adopts it will see the order
        try:
            self.order(job, order.kind, order.reason.rpartition(" by ")[2])
        except Refused as refused:
            log.info("late order: %s", refused)

    def _ray_for(self, job: str) -> NodeRay:
        if self._ray is None:
            raise RuntimeError("this head was begun without a Ray")
        return self._ray.for_job(job)

    def _find_for(self, job: str, spec: JobSpec) -> Found:
        others = [one for one in self._queue.running() if one.job != job]
        return self._stock.beside(spec.resources.device, others)

    def _pace(self) -> float:
        """Seconds between two looks of a supervisor; the more there are, the longer."""
        return max(len(self._drives), self._to_adopt) / _LOOKS_PER_SECOND

    # -- ending -----------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no job in and start none; what runs goes on to its end."""
        self.accepting = False
        self._queue.stop()

    def close(self, *, keep_ranks: bool) -> None:
        """End: running jobs are stopped gracefully and queued again, or left running."""
        self.drain()
        reason = "stopped by `muster down`; it goes on after `muster up`"
        kind = OrderKind.DETACH if keep_ranks else OrderKind.REQUEUE
        drives = self.drives
        for drive in drives:
            drive.give(Order(kind, reason))
        until = time.monotonic() + _DETACH_PATIENCE
        for drive in drives:
            patience = max(0.0, until - time.monotonic()) if keep_ranks else None
            drive.join(patience)
        if self._ray is not None:
            self._ray.close()
