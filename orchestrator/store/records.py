"""SQL of what hangs on a job: attempts, ranks, incidents, checkpoints; and of bars.

Columns are named after the fields of the value, so one way to write and read serves all. Every
function runs inside its caller's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from cluster.bars import Bar
from orchestrator.states import FailureClass, RankState
from orchestrator.store.jobs import NEVER, plain
from orchestrator.store.values import (
    AttemptRecord,
    BarRecord,
    CheckpointRecord,
    IncidentRecord,
    JobIncident,
    Page,
    RankRecord,
    Record,
)

R = TypeVar("R", AttemptRecord, RankRecord, IncidentRecord, CheckpointRecord)


@dataclass(frozen=True)
class _Table:
    """Where values of a kind are kept: by the job's number and `key`; how columns become fields."""

    name: str
    key: tuple[str, ...]
    order: str
    reading: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


_TABLES: dict[type[Record], _Table] = {
    AttemptRecord: _Table("attempts", ("attempt",), "attempt"),
    RankRecord: _Table("ranks", ("attempt", "rank"), "attempt, rank", {"state": RankState}),
    IncidentRecord: _Table(
        "incidents",
        ("incident",),
        "incident",
        {"failure": FailureClass, "document": json.loads},
    ),
    CheckpointRecord: _Table(
        "checkpoints", ("path",), "step DESC, path", {"path": Path, "verified": bool}
    ),
}


def put(connection: sqlite3.Connection, number: int, record: Record) -> None:
    """Record a value of the job with that number, in place of an earlier one of the same key."""
    table = _TABLES[type(record)]
    names = _names(type(record))
    values = [_column(getattr(record, name)) for name in names]
    renewed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in table.key)
    connection.execute(
        f"INSERT INTO {table.name} (number, {', '.join(names)}) "
        f"VALUES (?{', ?' * len(names)}) "
        f"ON CONFLICT (number, {', '.join(table.key)}) DO UPDATE SET {renewed}",
        (number, *values),
    )


def read(
    connection: sqlite3.Connection, kind: type[R], number: int, *, attempt: int | None = None
) -> tuple[R, ...]:
    """The job's values of a kind; ranks of one attempt only, if it is given."""
    table = _TABLES[kind]
    term = "" if attempt is None else " AND attempt = ?"
    rows = connection.execute(
        f"SELECT {', '.join(_names(kind))} FROM {table.name} WHERE number = ?{term} "
        f"ORDER BY {table.order}",
        (number,) if attempt is None else (number, attempt),
    )
    return tuple(_value(kind, row) for row in rows)


def incidents(connection: sqlite3.Connection, page: Page) -> tuple[JobIncident, ...]:
    """Incidents of all jobs, the newest first."""
    columns = ", ".join(f"incidents.{name}" for name in _names(IncidentRecord))
    rows = connection.execute(
        f"SELECT serial, job, {columns} FROM incidents JOIN jobs USING (number) "
        "WHERE serial < ? ORDER BY serial DESC LIMIT ?",
        (NEVER if page.before is None else max(0, min(page.before, NEVER)), page.limit),
    )
    return tuple(JobIncident(row[0], row[1], _value(IncidentRecord, row[2:])) for row in rows)


_BAR = ("device", "why", "since", "until", "set_by", "code", "uuid")
"""The fields of `Bar` in order; `by` is a word of SQL."""


def put_bars(connection: sqlite3.Connection, bars: Iterable[BarRecord]) -> None:
    """Bar devices; a bar by the same on the same device and for the same fault is replaced."""
    connection.executemany(
        f"INSERT OR REPLACE INTO bars (node, {', '.join(_BAR)}) VALUES (?{', ?' * len(_BAR)})",
        [(one.node, *(getattr(one.bar, named.name) for named in fields(Bar))) for one in bars],
    )


def drop_bars(connection: sqlite3.Connection, node: str, devices: Sequence[str]) -> None:
    """Lift all bars of these devices of a node."""
    connection.executemany(
        "DELETE FROM bars WHERE node = ? AND device = ?", [(node, device) for device in devices]
    )


def bars(connection: sqlite3.Connection, now: float) -> tuple[BarRecord, ...]:
    """The bars in force, by node and device."""
    rows = connection.execute(
        f"SELECT node, {', '.join(_BAR)} FROM bars WHERE until IS NULL OR until > ? "
        "ORDER BY node, device, since, set_by, code",
        (now,),
    )
    return tuple(BarRecord(row[0], Bar(*row[1:])) for row in rows)


def _names(kind: type) -> tuple[str, ...]:
    return tuple(named.name for named in fields(kind))


def _column(value: object) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return plain(value)
    return json.dumps(value, separators=(",", ":")) if isinstance(value, Mapping) else value


def _value(kind: type[R], row: Sequence[Any]) -> R:
    reading = _TABLES[kind].reading
    known = {
        name: reading[name](value) if name in reading else value
        for name, value in zip(_names(kind), row, strict=True)
    }
    return kind(**known)
