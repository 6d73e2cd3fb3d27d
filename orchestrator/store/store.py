"""The store of a controller: jobs and all that happened to them, on SQLite.

Whoever is told that something was written may rely on it, whatever dies next. Reads see what was
committed last and wait for nobody. All methods may be called from any thread.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

from cluster.bars import Bar
from orchestrator.journal import Event
from orchestrator.states import JobState
from orchestrator.store import backup, connections, filesystem, guard, jobs, opening, records
from orchestrator.store.errors import Damaged, StaleEpoch, StoreFull
from orchestrator.store.values import (
    AttemptRecord,
    BarRecord,
    CheckpointRecord,
    Filter,
    IncidentRecord,
    JobFile,
    JobIncident,
    JobPage,
    JobRecord,
    Page,
    RankRecord,
    Record,
    Submission,
    Told,
)
from orchestrator.store.writer import Writer

T = TypeVar("T")

HEADROOM = 16 << 20
"""Bytes that must be free for a job to be taken in: the last room is for jobs that run."""

_NEWEST = Page()
_ALL = Filter()


class Store:
    """An open store; `Store.open` makes one. Methods raise StoreError and its kinds.

    Every writing method carries the epoch of its controller, and is refused with StaleEpoch once a
    later one has begun. `warnings` are for people: what is not well with where the store lies.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self.warnings = tuple(filter(None, [filesystem.warning(path.parent)]))
        self._lock = lock
        self._writer = Writer(connection, path)
        self._readers = connections.Readers(path)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the store, making or migrating it, for this process alone.

        Raises InUse, CannotOpen (a network file system, no SQLite file, a newer store …), Damaged.
        """
        path = path.expanduser().absolute()
        guard.prepare_directory(path.parent)
        lock = guard.take_lock(path)
        try:
            guard.prepare_file(path)
            connection = connections.writer(path)
            try:
                opening.make_ready(connection, path)
                guard.keep_reserve(path)
                return cls(path, connection, lock)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Finish what was begun, then let go of the store."""
        self._readers.close()
        self._writer.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def commits(self) -> int:
        """How many commits, an fsync each, this store has made since it was opened."""
        return self._writer.commits

    # -- the controller ---------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """This store for ever: drawn when it was made."""
        return str(self._meta("instance"))

    @property
    def epoch(self) -> int:
        """The epoch of the newest controller; 0 before the first."""
        return int(self._meta("epoch"))

    def begin_epoch(self) -> int:
        """A new controller takes over: all commands of earlier ones are refused from now on."""
        return self._writer.put(_next_epoch).result()

    def _meta(self, name: str) -> int | str:
        with self._readers.lend() as connection:
            return _meta(connection, name)

    # -- jobs -------------------------------------------------------------------------------

    def submit(self, submission: Submission, *, epoch: int) -> JobRecord:
        """Take a job in, durable when this returns. Raises KeyReused, StoreFull."""
        return self.submit_soon(submission, epoch=epoch).result()

    def submit_soon(self, submission: Submission, *, epoch: int) -> Future[JobRecord]:
        """The same without waiting: the future is done when the job is durable."""
        self._expect_room()
        digest = submission.digest  # here: the writer's thread is the one that all wait for
        return self._put(partial(jobs.insert, submission=submission, digest=digest), epoch)

    def transition(
        self,
        job: str,
        event: Event,
        *,
        seen: JobState,
        epoch: int,
        records: Sequence[Record] = (),
        follow_up: Submission | None = None,
    ) -> Told:
        """Record an event, with the move that it states and what else came of it, as one.

        `seen` is the state on which the caller decided. `follow_up` is a job to be taken in with
        it. Raises Moved if the job is in another state by now, IllegalMove, NoSuchJob; then
        nothing was recorded.
        """
        return self.transition_soon(
            job, event, seen=seen, epoch=epoch, records=records, follow_up=follow_up
        ).result()

    def transition_soon(
        self,
        job: str,
        event: Event,
        *,
        seen: JobState,
        epoch: int,
        records: Sequence[Record] = (),
        follow_up: Submission | None = None,
    ) -> Future[Told]:
        """The same without waiting: the future is done when the move is durable."""
        data = jobs.written(event)
        digest = follow_up.digest if follow_up else ""

        def work(connection: sqlite3.Connection) -> Told:
            number, told = jobs.move(connection, job, event, seen, data)
            _put_all(connection, number, records)
            if follow_up is not None:
                jobs.insert(connection, submission=follow_up, digest=digest)
            return told

        return self._put(work, epoch)

    def record(self, job: str, *values: Record, epoch: int) -> None:
        """Record values that no event goes with: where a rank stands, a checkpoint."""

        def work(connection: sqlite3.Connection) -> None:
            _put_all(connection, jobs.number_of(connection, job), values)

        self._put(work, epoch).result()

    def job(self, job: str) -> JobRecord:
        """One job. Raises NoSuchJob."""
        return self._read(jobs.find, job)

    def job_of_key(self, user: str, key: str) -> str | None:
        """The id of the job that a user's idempotency key made; None if it made none yet."""
        return self._read(jobs.of_key, user, key)

    def job_file(self, job: str) -> JobFile:
        """What was submitted. Raises NoSuchJob."""
        return self._read(jobs.job_file, job)

    def jobs(self, wanted: Filter = _ALL, page: Page = _NEWEST) -> JobPage:
        """A page of jobs, the newest submission first."""
        return self._read(jobs.select, wanted, page)

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state that any is in."""
        return self._read(jobs.count)

    def waiting(self) -> tuple[JobRecord, ...]:
        """All QUEUED jobs in order: priority, then those that were started before, then age."""
        return self._read(jobs.waiting)

    def events(self, job: str, after: int = 0, limit: int = 1000) -> tuple[Told, ...]:
        """The job's events after a sequence number, oldest first, at most `limit` (10 000).

        Raises NoSuchJob.
        """
        return self._read(jobs.events, job, after, limit)

    # -- what hangs on a job ----------------------------------------------------------------

    def attempts(self, job: str) -> tuple[AttemptRecord, ...]:
        """The job's attempts in order. Raises NoSuchJob."""
        with self._readers.lend() as connection:
            return records.read(connection, AttemptRecord, jobs.number_of(connection, job))

    def ranks(self, job: str, attempt: int) -> tuple[RankRecord, ...]:
        """The ranks of an attempt in order. Raises NoSuchJob."""
        with self._readers.lend() as connection:
            number = jobs.number_of(connection, job)
            return records.read(connection, RankRecord, number, attempt=attempt)

    def incidents(self, job: str) -> tuple[IncidentRecord, ...]:
        """The job's incidents in order. Raises NoSuchJob."""
        with self._readers.lend() as connection:
            return records.read(connection, IncidentRecord, jobs.number_of(connection, job))

    def all_incidents(self, page: Page = _NEWEST) -> tuple[JobIncident, ...]:
        """Incidents of all jobs, the newest first."""
        return self._read(records.incidents, page)

    def checkpoints(self, job: str) -> tuple[CheckpointRecord, ...]:
        """The job's checkpoints, those that are gone included, newest step first."""
        with self._readers.lend() as connection:
            return records.read(connection, CheckpointRecord, jobs.number_of(connection, job))

    # -- devices ----------------------------------------------------------------------------

    def bar(self, node: str, bars: Iterable[Bar], *, epoch: int) -> None:
        """Keep devices of a node from jobs; the same bar given again is renewed."""
        values = [BarRecord(node, bar) for bar in bars]
        self._put(lambda connection: records.put_bars(connection, values), epoch).result()

    def unbar(self, node: str, devices: Sequence[str], *, epoch: int) -> None:
        """Lift all bars of these devices."""
        self._put(lambda c: records.drop_bars(c, node, devices), epoch).result()

    def bars(self, now: float | None = None) -> tuple[BarRecord, ...]:
        """The bars in force, by node and device."""
        return self._read(records.bars, time.time() if now is None else now)

    # -- the file ---------------------------------------------------------------------------

    def backup(self, target: Path) -> Path:
        """Copy the store to a file, while it is in use; see `orchestrator.store.backup`."""
        with self._readers.lend() as connection:
            return backup.write(connection, self.path, target)

    def _expect_room(self) -> None:
        with guard.refusing(self.path):
            place = os.statvfs(self.path.parent)
        free = place.f_bavail * place.f_frsize
        if free < HEADROOM:
            raise StoreFull(
                f"{self.path.parent} has {free >> 20} MiB free; no job is taken in below "
                f"{HEADROOM >> 20} MiB, since running jobs need that room. Make room there"
            )
        guard.keep_reserve(self.path)

    def _put(self, work: Callable[[sqlite3.Connection], T], epoch: int) -> Future[T]:
        def checked(connection: sqlite3.Connection) -> T:
            current = int(_meta(connection, "epoch"))
            if epoch != current:
                raise StaleEpoch(epoch, current)
            return work(connection)

        return self._writer.put(checked)

    def _read(self, function: Callable[..., T], *arguments: object) -> T:
        with self._readers.lend() as connection:
            return function(connection, *arguments)


def _put_all(connection: sqlite3.Connection, number: int, values: Iterable[Record]) -> None:
    for value in values:
        records.put(connection, number, value)


def _next_epoch(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
    return int(_meta(connection, "epoch"))


def _meta(connection: sqlite3.Connection, name: str) -> int | str:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise Damaged(f"the store has no {name}")
    value: int | str = row[0]
    return value
