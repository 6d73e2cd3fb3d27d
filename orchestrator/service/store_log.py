"""A job's log in the store: a move, its event and what else came of it in one transaction.

Each event is copied to the journal in the run directory too, which so explains itself; the copy
is for people, the store is what counts.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from orchestrator.journal import Event, JournalError, append_line, document_of, read_lines
from orchestrator.layout import RunDirectory, aside, sync_directory
from orchestrator.ledger import Ledger
from orchestrator.processes import boot_id
from orchestrator.service.news import News
from orchestrator.states import FailureClass, JobState, RankState
from orchestrator.store import Store
from orchestrator.store.errors import StoreError, StoreFull
from orchestrator.store.values import (
    AttemptRecord,
    CheckpointRecord,
    IncidentRecord,
    RankRecord,
    Record,
    Submission,
)

_LARGEST = 10_000
_RETRY = 1.0


class StoreLog:
    """The log of one job, written by whoever drives it.

    A disk that is full stops no rank: `append` waits for room, and `stalled` says so meanwhile.
    """

    def __init__(
        self,
        store: Store,
        job: str,
        *,
        epoch: int,
        directory: RunDirectory,
        news: News,
        follow_up: Submission | None = None,
    ) -> None:
        """`follow_up` is the job that is taken in with this one's success."""
        self._follow_up = follow_up
        self._store = store
        self._job = job
        self._epoch = epoch
        self._directory = directory
        self._news = news
        self._ledger = Ledger()
        self.given_up = threading.Event()
        """Set from outside when nobody shall wait for a disk any longer."""
        self.stalled = ""
        self.trouble = ""
        """Why the last event could not be recorded at all."""

    def events(self) -> list[Event]:
        """All events of the job; the journal in its directory is brought up to date."""
        events = list(all_events(self._store, self._job))
        self._ledger = Ledger()
        for event in events:
            self._ledger.apply(event)
        self._mend_copy(events)
        return events

    def append(
        self,
        kind: str,
        reason: str = "",
        *,
        attempt: int = 0,
        state: JobState | None = None,
        **data: Any,
    ) -> Event:
        """Record an event of this job. Raises JournalError when that cannot be."""
        event = Event(time.time(), kind, attempt, state, reason, data)
        seen = self._ledger.state
        self._ledger.apply(event)
        records = records_of(event, self._ledger)
        sequence = self._write(event, seen, records)
        self._news.tell(self._job, sequence)
        copy_line(self._directory, event)
        return event

    def _write(self, event: Event, seen: JobState, records: Sequence[Record]) -> int:
        while True:
            try:
                told = self._store.transition(
                    self._job,
                    event,
                    seen=seen,
                    epoch=self._epoch,
                    records=records,
                    follow_up=self._follow_up if event.state is JobState.SUCCEEDED else None,
                )
            except StoreFull as error:
                self.stalled = str(error)
                if self.given_up.wait(_RETRY):
                    raise JournalError(str(error)) from error
            except StoreError as error:
                self.trouble = str(error)
                raise JournalError(str(error)) from error
            else:
                self.stalled = ""
                return told.sequence

    def _mend_copy(self, events: Sequence[Event]) -> None:
        """Write the copy anew if a killed controller, or a full disk, left it behind."""
        path = self._directory.events
        if not self._directory.root.is_dir():
            return
        whole = [document_of(event) for event in events]
        if list(read_lines(path)) == whole:
            return
        with contextlib.suppress(OSError):
            unfinished = aside(path)
            unfinished.unlink(missing_ok=True)
            for document in whole:
                append_line(unfinished, document, durable=False)
            unfinished.replace(path)
            sync_directory(path.parent)


def copy_line(directory: RunDirectory, event: Event) -> None:
    """Add an event to the copy in a run directory, if that is there and takes it."""
    if directory.events.exists():
        with contextlib.suppress(OSError):
            append_line(directory.events, document_of(event), durable=False)


def all_events(store: Store, job: str) -> Iterator[Event]:
    """Every event of a job, oldest first. Raises NoSuchJob."""
    after = 0
    while True:
        page = store.events(job, after, _LARGEST)
        yield from (told.event for told in page)
        if len(page) < _LARGEST:
            return
        after = page[-1].sequence


def records_of(event: Event, ledger: Ledger) -> tuple[Record, ...]:
    """What an event adds to the tables beside its job's; `ledger` has taken it in."""
    make = _RECORDS.get(event.kind)
    return make(event, ledger) if make else ()


def _attempt(event: Event, ledger: Ledger) -> tuple[Record, ...]:
    begun = AttemptRecord(
        attempt=event.attempt, started_at=event.time, resumed_step=ledger.resumed_step
    )
    ranks = (
        RankRecord(
            attempt=event.attempt, rank=rank, node=node, device=device, state=RankState.PENDING
        )
        for rank, node, device in event.data["places"]
    )
    return begun, *ranks


def _running(event: Event, ledger: Ledger) -> tuple[Record, ...]:
    boot = boot_id()
    return tuple(
        RankRecord(
            attempt=event.attempt,
            rank=rank,
            node=ledger.places[rank][0],
            device=ledger.places[rank][1],
            state=RankState.STARTING,
            pid=pid,
            start_time=start_time,
            boot_id=boot,
        )
        for rank, pid, start_time in event.data.get("pids", ())
        if rank in ledger.places
    )


def _attempt_ended(event: Event, ledger: Ledger) -> tuple[Record, ...]:
    ended = AttemptRecord(
        attempt=event.attempt,
        started_at=ledger.attempt_at or event.time,
        ended_at=event.time,
        resumed_step=ledger.resumed_step,
        last_step=event.data["last_step"],
        outcome="failed" if ledger.suspect else "",
    )
    boot = boot_id()
    ranks = (
        RankRecord(
            attempt=event.attempt,
            rank=rank,
            node=ledger.places[rank][0],
            device=ledger.places[rank][1],
            state=RankState(state),
            pid=pid,
            start_time=start_time,
            boot_id=boot if pid else "",
            exit_code=code,
            signal=signal,
            ended_at=event.time,
        )
        for rank, state, pid, start_time, code, signal in event.data.get("ends", ())
        if rank in ledger.places
    )
    return ended, *ranks


def _incident(_: Event, ledger: Ledger) -> tuple[Record, ...]:
    document = ledger.incidents[-1]
    return (
        IncidentRecord(
            incident=len(ledger.incidents),
            attempt=document["attempt"],
            failure=FailureClass(document["class"]),
            fault_at=document["fault_at"],
            document=document,
        ),
    )


def _checkpoint(fate: str) -> Callable[[Event, Ledger], tuple[Record, ...]]:
    def make(event: Event, _: Ledger) -> tuple[Record, ...]:
        return (
            CheckpointRecord(
                path=event.data["path"],
                step=event.data.get("step", 0),
                digest=event.data.get("digest") or "",
                world_size=event.data.get("world_size", 0),
                verified=bool(event.data.get("verified")),
                written_at=event.time,
                fate=fate,
            ),
        )

    return make


_RECORDS: dict[str, Callable[[Event, Ledger], tuple[Record, ...]]] = {
    "attempt": _attempt,
    "running": _running,
    "attempt_ended": _attempt_ended,
    "failure": _incident,
    "decision": _incident,
    "recovered": _incident,
    "checkpoint": _checkpoint("kept"),
    "promoted": _checkpoint("kept"),
    "quarantined": _checkpoint("quarantined"),
    "retired": _checkpoint("retired"),
}
