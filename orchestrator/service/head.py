"""The head: every job that was submitted, what becomes of it, and what can be asked of it.

All methods may be called from any thread; those that write return when it is durable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import drill as drills
from orchestrator import orders
from orchestrator.jobfile import from_document
from orchestrator.layout import RunDirectory
from orchestrator.orders import NotTaken, OrderKind, Refused
from orchestrator.service.news import News
from orchestrator.spec import JobSpec
from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store.values import JobRecord, Submission, happened

_MOVES = {
    OrderKind.CANCEL: ("cancelled", JobState.CANCELLED),
    OrderKind.HOLD: ("held", JobState.HELD),
    OrderKind.RELEASE: ("released", JobState.QUEUED),
    OrderKind.RESUME: ("resumed", JobState.QUEUED),
}


@dataclass(frozen=True)
class Line:
    """A waiting job's place in the whole line, counted from 1, and why it waits."""

    position: int
    reason: str


class Head:
    """The one controller of a store. `begin` starts to drive; `close` ends."""

    def __init__(self, store: Store, runs: Path, environment: Mapping[str, str]) -> None:
        self.store = store
        self.runs = runs
        self.environment = environment
        self.epoch = store.begin_epoch()
        self.news = News()
        self.accepting = True
        self._lock = threading.Lock()

    # -- taking in --------------------------------------------------------------------------

    def submit(
        self, spec: JobSpec, text: bytes, *, user: str, key: str | None = None
    ) -> Future[JobRecord]:
        """Take a validated job in; the future is done when it is durable.

        Raises NotTaken, KeyReused, StoreFull.
        """
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

    # -- asking -----------------------------------------------------------------------------

    def job(self, job: str) -> JobRecord:
        """Raises NoSuchJob."""
        return self.store.job(job)

    def spec(self, job: str) -> JobSpec:
        """What was submitted, as it was understood. Raises NoSuchJob."""
        return from_document(self.store.job_file(job).spec)

    def directory(self, job: str) -> RunDirectory:
        """Where the job's logs and checkpoints are; absent before its first start."""
        return RunDirectory(Path(self.job(job).run_dir))

    def status(self, job: str) -> dict[str, Any]:
        """The document of `muster status --json`. Raises NoSuchJob."""
        raise NotImplementedError

    def waiting(self) -> Mapping[str, Line]:
        """By job: its place in the line and why it waits, as of the last pass of the queue."""
        return {}

    def health(self) -> dict[str, Any]:
        """How the controller itself is: its process, its Ray, its store, what it drives."""
        return {
            "epoch": self.epoch,
            "accepting": self.accepting,
            "jobs": {state.value: count for state, count in self.store.counts().items()},
            "warnings": list(self.store.warnings),
        }

    # -- ordering ---------------------------------------------------------------------------

    def order(self, job: str, kind: OrderKind, by: str) -> JobRecord:
        """Have something become of a job. Raises NoSuchJob, Refused."""
        with self._lock:
            record = self.store.job(job)
            orders.check(kind, record.state, job)
            name, state = _MOVES[kind]
            event = happened(
                name, f"{name} by {by}", attempt=record.attempt, state=state, at=time.time()
            )
            told = self.store.transition(job, event, seen=record.state, epoch=self.epoch)
        self.news.tell(job, told.sequence)
        return self.store.job(job)

    def drill(self, job: str, fault: str) -> None:
        """Break a running job on purpose. Raises NoSuchJob, Refused, drill.FaultError."""
        record = self.store.job(job)
        drills.parse(fault, record.ranks)
        raise Refused(f"{job} is {record.state.value}: only a running job can be broken")

    # -- ending -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Adopt what runs already, then drive the queue."""

    def close(self, *, keep_ranks: bool) -> None:
        """End: running jobs are stopped gracefully and queued again, or left running."""
        self.accepting = False
