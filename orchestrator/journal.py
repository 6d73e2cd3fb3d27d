"""The journal of a run: one JSON line an event, append only, durable before it is believed.

What is known about a run is a fold over its journal, so a crash at any instant loses at
most a line that was never acted upon. Standard library only (the supervisor writes too).
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.layout import sync_directory
from orchestrator.states import JobState


@dataclass(frozen=True)
class Event:
    """Something that happened. `time` is Unix seconds; `state` is set if the job moved."""

    time: float
    kind: str
    attempt: int
    state: JobState | None
    reason: str
    data: dict[str, Any]


class JournalError(RuntimeError):
    """The journal cannot be written: nothing may go on unrecorded."""


class Journal:
    """The writing end. Every append is on disk when the call returns.

    `reserve` is a file whose only use is its size: it is given up when the disk is full, so
    that the end of the run can still be recorded. Raises JournalError when that fails too.
    """

    def __init__(self, path: Path, reserve: Path | None = None) -> None:
        self._path = path
        self._reserve = reserve

    def append(
        self,
        kind: str,
        reason: str = "",
        *,
        attempt: int = 0,
        state: JobState | None = None,
        **data: Any,
    ) -> Event:
        """Record an event, with the move of the job that it explains, as one line."""
        event = Event(time.time(), kind, attempt, state, reason, data)
        try:
            self._append(document_of(event))
        except OSError as error:
            raise JournalError(f"{self._path}: {error.strerror or error}") from error
        return event

    def events(self) -> list[Event]:
        """All events, those included that others have added."""
        return read_events(self._path)

    def _append(self, line: dict[str, Any]) -> None:
        try:
            append_line(self._path, line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._give_up_reserve():
                raise
            append_line(self._path, line)

    def _give_up_reserve(self) -> bool:
        if self._reserve is None or not self._reserve.exists():
            return False
        self._reserve.unlink()
        return True


def document_of(event: Event) -> dict[str, Any]:
    """An event as the line of a journal."""
    return {
        "time": event.time,
        "kind": event.kind,
        "attempt": event.attempt,
        **({"state": event.state.value} if event.state else {}),
        "reason": event.reason,
        **({"data": event.data} if event.data else {}),
    }


def keep_reserve(path: Path, size: int = 1 << 18) -> None:
    """Fill the reserve with real blocks. Raises OSError when there is no room even now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def append_line(path: Path, document: dict[str, Any], *, durable: bool = True) -> None:
    """Append one JSON line with a single write and, unless it is a copy, make it durable.

    A torn last line, left by a crash or a full disk, is closed off first: readers skip it.
    """
    line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes fitted", str(path))
        if durable:
            os.fsync(descriptor)
            if not size:
                sync_directory(path.parent)  # a file without a name is lost with its lines
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole JSON lines of a file; torn ones are left out."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    for line in raw.split(b"\n"):
        if not line:
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            yield document


def read_events(path: Path) -> list[Event]:
    """All events of a journal, oldest first."""
    return [_event(document) for document in read_lines(path)]


def _event(document: dict[str, Any]) -> Event:
    state = document.get("state")
    return Event(
        time=float(document.get("time", 0.0)),
        kind=str(document.get("kind", "")),
        attempt=int(document.get("attempt", 0)),
        state=JobState(state) if state else None,
        reason=str(document.get("reason", "")),
        data=document.get("data", {}),
    )
