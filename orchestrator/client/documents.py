"""The documents of the API, as far as programs rely on them; a newer controller may say more."""

from __future__ import annotations

from typing import Any, TypedDict


class JobRow(TypedDict):
    """A job as it stands. Times in Unix seconds; None is not known, or not yet."""

    job: str
    name: str
    user: str
    queue: str
    priority: int
    device: str
    ranks: int
    state: str
    reason: str | None
    position: int | None
    attempt: int
    submitted_at: float
    queued_at: float | None
    started_at: float | None
    ended_at: float | None
    run_dir: str


class Submitted(TypedDict):
    """A job that was taken in; `position` is its place in the line, None if not yet known."""

    job: str
    name: str
    state: str
    run_dir: str
    position: int | None


class EventRow(TypedDict):
    """Something that happened to a job; `sequence` counts from 1 without gaps."""

    sequence: int
    time: float
    kind: str
    attempt: int
    state: str | None
    reason: str
    data: dict[str, Any]


class LogLine(TypedDict):
    """A line that a rank wrote; of the rendezvous scheduler if `rank` is None.

    `offset` is where it ends in that log, in bytes. What has no line feed for 64 KiB is several.
    """

    rank: int | None
    attempt: int
    offset: int
    line: str
