"""A log in memory that can be full, and at every line of which a controller may die."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.journal import Event, JournalError, append_line, document_of
from orchestrator.states import JobState
from tests.simulation.clock import Clock
from tests.simulation.node import Fate


class MemoryLog:
    """What is recorded stays recorded, whoever dies; see `orchestrator.recorder.Log`."""

    def __init__(self, clock: Clock, seen: Callable[[Event], None]) -> None:
        self._clock = clock
        self._seen = seen
        self._events: list[Event] = []
        self.fate = Fate()
        self.full_until = 0.0
        self.was_full = False
        self.waits = True
        """Whether a full disk is waited for, as a head does, or is the end, as of a single run."""

    def append(
        self,
        kind: str,
        reason: str = "",
        *,
        attempt: int = 0,
        state: JobState | None = None,
        **data: Any,
    ) -> Event:
        """Record what a controller says."""
        self.fate.moment()
        if self._clock.now < self.full_until:
            self.was_full = True
            if not self.waits:
                raise JournalError("no space left on device")
            self._clock.sleep(self.full_until - self._clock.now)
            self.fate.moment()
        event = self.record(kind, reason, attempt=attempt, state=state, **data)
        self.fate.moment()
        return event

    def record(
        self,
        kind: str,
        reason: str = "",
        *,
        attempt: int = 0,
        state: JobState | None = None,
        **data: Any,
    ) -> Event:
        """Record what anybody else says."""
        event = Event(self._clock.time(), kind, attempt, state, reason, data)
        self._events.append(replace(event, data=json.loads(json.dumps(data))))
        self._seen(self._events[-1])
        return event

    def events(self) -> list[Event]:
        """All of it, oldest first."""
        return list(self._events)

    def write(self, path: Path) -> None:
        """Have it on disk for whoever reads the run directory."""
        path.unlink(missing_ok=True)
        for event in self._events:
            append_line(path, document_of(event), durable=False)
