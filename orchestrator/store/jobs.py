"""SQL of jobs and their events. Every function runs inside its caller's transaction."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

from cluster.device import DeviceKind
from orchestrator.journal import Event
from orchestrator.layout import job_directory
from orchestrator.states import JobState
from orchestrator.store.errors import IllegalMove, KeyReused, Moved, NoSuchJob
from orchestrator.store.values import (
    LARGEST_PAGE,
    Filter,
    JobFile,
    JobPage,
    JobRecord,
    Page,
    Submission,
    Told,
    happened,
)

_NAMES = tuple(field.name for field in fields(JobRecord))
_COLUMNS = ", ".join(_NAMES)
NEVER = 1 << 62
"""More than any number that SQLite ever gives; it takes no larger ones."""
_BACK_IN_FRONT = frozenset({JobState.RECOVERING, JobState.STOPPING})
"""From these a job comes back to the queue without having ended: before all of its priority."""


def insert(connection: sqlite3.Connection, submission: Submission, digest: str) -> JobRecord:
    """Take a job in, or find the one that the same key made. Raises KeyReused."""
    known = _of_key(connection, submission, digest)
    if known is not None:
        return known
    now = time.time()
    row = _new_row(connection, submission, digest, now)
    number = connection.execute(
        f"INSERT INTO jobs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
        tuple(row.values()),
    ).lastrowid
    connection.execute(
        "INSERT INTO job_files VALUES (?, ?, ?)", (number, submission.document, submission.text)
    )
    made = happened(
        "created", f"job {submission.name}", state=JobState.QUEUED, at=now, user=submission.user
    )
    _append(connection, find(connection, row["job"]), made, written(made))
    return find(connection, row["job"])


def _of_key(
    connection: sqlite3.Connection, submission: Submission, digest: str
) -> JobRecord | None:
    if submission.key is None:
        return None
    row = connection.execute(
        f"SELECT digest, {_COLUMNS} FROM jobs WHERE user = ? AND key = ?",
        (submission.user, submission.key),
    ).fetchone()
    if row is None:
        return None
    known = _record(row[1:])
    if row[0] != digest:
        raise KeyReused(submission.key, known.job)
    return known


def _new_row(
    connection: sqlite3.Connection, submission: Submission, digest: str, now: float
) -> dict[str, Any]:
    job = _new_id(connection, submission.name)
    return {
        "job": job,
        "name": submission.name,
        "user": submission.user,
        "queue": submission.queue,
        "priority": submission.priority,
        "device": submission.device.value,
        "ranks": submission.ranks,
        "wait_limit": submission.wait_limit,
        "run_limit": submission.run_limit,
        "run_dir": str(job_directory(submission.runs, job)),
        "state": JobState.QUEUED.value,
        "reason": "",
        "attempt": 0,
        "front": 0,
        "place": _last_place(connection),
        "submitted_at": now,
        "queued_at": now,
        "last_event": 0,
        "key": submission.key,
        "digest": digest,
    }


def _new_id(connection: sqlite3.Connection, name: str) -> str:
    while True:
        job = f"{name}-{secrets.token_hex(3)}"
        if not connection.execute("SELECT 1 FROM jobs WHERE job = ?", (job,)).fetchone():
            return job


def _last_place(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT coalesce(max(place), 0) FROM jobs").fetchone()
    return int(last) + 1


def move(
    connection: sqlite3.Connection, job: str, event: Event, seen: JobState, data: str
) -> tuple[int, Told]:
    """Append an event and make the move it states. `data` is the event's, `written`.

    Returns the job's number too. An event that states the present state again only gives it a new
    reason. Raises NoSuchJob, Moved, IllegalMove.
    """
    record = find(connection, job)
    if record.state is not seen:
        raise Moved(job, seen, record.state)
    wanted = event.state
    if wanted not in (None, record.state) and not record.state.may_become(wanted):
        raise IllegalMove(job, record.state, wanted)
    return record.number, _append(connection, record, event, data)


def _append(connection: sqlite3.Connection, record: JobRecord, event: Event, data: str) -> Told:
    sequence = record.last_event + 1
    state = event.state.value if event.state else None
    reason = plain(event.reason)
    connection.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (record.number, sequence, event.time, event.kind, event.attempt, state, reason, data),
    )
    changes: dict[str, Any] = {
        "last_event": sequence,
        "attempt": max(record.attempt, event.attempt),
        **_moved(connection, record, event),
    }
    connection.execute(
        f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in changes)} WHERE number = ?",
        (*changes.values(), record.number),
    )
    return Told(sequence, event)


def _moved(connection: sqlite3.Connection, record: JobRecord, event: Event) -> dict[str, Any]:
    """What an event changes of its job's row; as `Ledger.apply` has it."""
    if event.state is None:
        return {"reason": plain(event.reason)} if event.kind == "waiting" else {}
    changes: dict[str, Any] = {
        "state": event.state.value,
        "reason": plain(event.reason),
        "ended_at": event.time if event.state.terminal else None,
    }
    if event.state is JobState.STARTING and record.started_at is None:
        changes["started_at"] = event.time
    if event.state is JobState.QUEUED and record.state is not JobState.QUEUED:
        changes["queued_at"] = event.time
        if record.state in _BACK_IN_FRONT:
            changes["front"] = 1
        if record.state.terminal:
            changes.update(front=0, place=_last_place(connection))
    return changes


def written(event: Event) -> str:
    """An event's data as JSON. Raises TypeError for what JSON does not have."""
    return json.dumps(event.data, separators=(",", ":"))


def plain(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a foreign path are shown as escapes."""
    return text.encode(errors="backslashreplace").decode()


def find(connection: sqlite3.Connection, job: str) -> JobRecord:
    """One job. Raises NoSuchJob."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE job = ?", (job,)).fetchone()
    if row is None:
        raise NoSuchJob(job)
    return _record(row)


def of_key(connection: sqlite3.Connection, user: str, key: str) -> str | None:
    """The id of the job that a user's idempotency key made, if it made one."""
    found = connection.execute("SELECT job FROM jobs WHERE user = ? AND key = ?", (user, key))
    row = found.fetchone()
    return str(row[0]) if row else None


def number_of(connection: sqlite3.Connection, job: str) -> int:
    """A job's number. Raises NoSuchJob."""
    row = connection.execute("SELECT number FROM jobs WHERE job = ?", (job,)).fetchone()
    if row is None:
        raise NoSuchJob(job)
    return int(row[0])


def job_file(connection: sqlite3.Connection, job: str) -> JobFile:
    """What was submitted. Raises NoSuchJob."""
    spec, text = connection.execute(
        "SELECT spec, text FROM job_files WHERE number = ?", (number_of(connection, job),)
    ).fetchone()
    return JobFile(json.loads(spec), text)


def select(connection: sqlite3.Connection, wanted: Filter, page: Page) -> JobPage:
    """A page of jobs, the newest submission first."""
    terms, values = _terms(wanted)
    if page.before is not None:
        terms, values = [*terms, "number < ?"], [*values, max(0, min(page.before, NEVER))]
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM jobs {_where(terms)} ORDER BY number DESC LIMIT ?",
        (*values, page.limit + 1),
    ).fetchall()
    found = tuple(map(_record, rows[: page.limit]))
    return JobPage(found, found[-1].number if len(rows) > page.limit else None)


def waiting(connection: sqlite3.Connection) -> tuple[JobRecord, ...]:
    """All that are QUEUED, in the order in which they are to start."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM jobs WHERE state = 'QUEUED' "
        "ORDER BY priority DESC, front DESC, place"
    )
    return tuple(map(_record, rows))


def count(connection: sqlite3.Connection) -> dict[JobState, int]:
    """How many jobs are in each state that any is in."""
    rows = connection.execute("SELECT state, count(*) FROM jobs GROUP BY state")
    return {JobState(state): number for state, number in rows}


def events(connection: sqlite3.Connection, job: str, after: int, limit: int) -> tuple[Told, ...]:
    """Events of a job with a sequence number above `after`, oldest first. Raises NoSuchJob."""
    rows = connection.execute(
        "SELECT sequence, time, kind, attempt, state, reason, data FROM events "
        "WHERE number = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (number_of(connection, job), max(0, min(after, NEVER)), max(1, min(limit, LARGEST_PAGE))),
    )
    return tuple(map(_told, rows))


def _told(row: Sequence[Any]) -> Told:
    sequence, at, kind, attempt, state, reason, data = row
    moved = JobState(state) if state else None
    return Told(sequence, Event(at, kind, attempt, moved, reason, json.loads(data)))


def _record(row: Sequence[Any]) -> JobRecord:
    known = list(row)
    for column, read in _READING:
        known[column] = read(known[column])
    return JobRecord(*known)


# Looked up, not called: ten thousand jobs are read for one `ps`.
_READING: tuple[tuple[int, Callable[[Any], Any]], ...] = (
    (_NAMES.index("device"), {kind.value: kind for kind in DeviceKind}.__getitem__),
    (_NAMES.index("state"), {state.value: state for state in JobState}.__getitem__),
    (_NAMES.index("front"), bool),
)


def _terms(wanted: Filter) -> tuple[list[str], list[Any]]:
    terms, values = [], []
    if wanted.states:
        terms.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        values += sorted(state.value for state in wanted.states)
    for column in ("user", "queue", "name"):
        value = getattr(wanted, column)
        if value is not None:
            terms.append(f"{column} = ?")
            values.append(value)
    return terms, values


def _where(terms: Iterable[str]) -> str:
    joined = " AND ".join(terms)
    return f"WHERE {joined}" if joined else ""
