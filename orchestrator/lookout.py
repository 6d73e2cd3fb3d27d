"""What a supervisor can see of one process: its heartbeats, its state, its log growing.

Only what has changed becomes a message. Standard library only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict

from orchestrator import processes
from orchestrator.effort import Meter
from orchestrator.heartbeat import read_heartbeat
from orchestrator.launch import ProcessPlan
from orchestrator.link import Message

# Running and sleeping alternate all the time and say nothing.
_TELLING_STATES = "TtDZ"
_STOPPED = frozenset("Tt")
_EFFORT_EVERY = 2.0


class Lookout:
    """Watches one process of an attempt from outside."""

    def __init__(self, launch: ProcessPlan, attempt: int, pid: int, now: float) -> None:
        self._launch = launch
        self._whose = {"attempt": attempt, "rank": launch.rank}
        self._pid = pid
        self._sequence = 0
        self._state: str | None = ""  # None: nobody was told
        self._log_size = 0
        self._log_at = now
        self._meter = Meter(pid) if launch.measured else None
        self._measured_at = self._looked_at = now
        self._stopped = 0.0

    def look(self) -> Iterator[Message]:
        """What has changed since the last look."""
        yield from self.beats()
        yield from self._signs()
        yield from self._effort()

    def forget(self) -> None:
        """Somebody new looks on: everything is news again."""
        self._sequence = 0
        self._state = None

    def last_words(self) -> Iterator[Message]:
        """The last heartbeat of a process that has ended, whoever has heard it."""
        self._sequence = 0
        yield from self.beats()

    def beats(self) -> Iterator[Message]:
        """The newest heartbeat, if there is a newer one."""
        if self._launch.heartbeat is None:
            return
        beat = read_heartbeat(self._launch.heartbeat)
        if beat is not None and beat.sequence != self._sequence:
            self._sequence = beat.sequence
            yield {"event": "beat", **self._whose, "beat": asdict(beat)}

    def _signs(self) -> Iterator[Message]:
        if self._launch.rank is None:
            return
        state = processes.state_of(self._pid) or ""
        state = state if state in _TELLING_STATES else ""
        self._count_stopped(state)
        size = self._size_of_log()
        if (state, size) == (self._state, self._log_size):
            return
        if size != self._log_size:
            self._log_at = time.monotonic()
        self._state, self._log_size = state, size
        yield {
            "event": "signs",
            **self._whose,
            "process_state": state,
            "log_at": self._log_at,
        }

    def _count_stopped(self, state: str) -> None:
        now = time.monotonic()
        if state in _STOPPED:
            self._stopped += now - self._looked_at
        self._looked_at = now

    def _effort(self) -> Iterator[Message]:
        """Seldom: it takes reading a file for every thread."""
        now = time.monotonic()
        if self._meter is None or now - self._measured_at < _EFFORT_EVERY:
            return
        self._measured_at = now
        effort = self._meter.read(self._stopped)
        if effort is not None:
            yield {"event": "effort", **self._whose, "at": now, "effort": asdict(effort)}

    def _size_of_log(self) -> int:
        try:
            return os.stat(self._launch.log).st_size
        except OSError:
            return self._log_size
