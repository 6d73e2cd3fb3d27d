"""One way to make something known: into the journal, the ledger, and before people's eyes."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Protocol

from orchestrator.journal import Event, Journal, JournalError, read_events
from orchestrator.layout import RunDirectory
from orchestrator.ledger import Ledger
from orchestrator.states import JobState


class Viewer(Protocol):
    """Somebody who is shown what was recorded; must not block."""

    def event(self, event: Event) -> None:
        """Something was recorded."""


class Recorder:
    """The journal of a run and what follows from it, for its one controller."""

    def __init__(self, directory: RunDirectory, viewer: Viewer) -> None:
        self._directory = directory
        self._journal = Journal(directory.events, directory.reserve)
        self._viewer = viewer
        self.ledger = Ledger()
        for event in read_events(directory.events):
            self.ledger.apply(event)

    def record(self, kind: str, reason: str = "", **fields: Any) -> None:
        """Journal an event, take it into the ledger, show it.

        Raises JournalError when it cannot be written, RuntimeError for an illegal move.
        """
        state = fields.get("state")
        now = self.ledger.state
        if state not in (None, now) and not now.may_become(state):
            raise RuntimeError(f"{now.value} may not become {state.value}")
        fields.setdefault("attempt", self.ledger.attempt)
        event = self._journal.append(kind, reason, **fields)
        self.ledger.apply(event)
        self._show(event)

    def events(self) -> list[Event]:
        """All events, those included that a drill from outside has added."""
        return read_events(self._directory.events)

    def lose_voice(self, error: JournalError) -> None:
        """Say what can no longer be written down."""
        reason = f"the run cannot be recorded any more: {error}"
        attempt = self.ledger.attempt
        self._show(Event(time.time(), "unrecorded", attempt, JobState.FAILED, reason, {}))

    def _show(self, event: Event) -> None:
        # A terminal that is gone must not cost a run.
        with contextlib.suppress(OSError):
            self._viewer.event(event)
