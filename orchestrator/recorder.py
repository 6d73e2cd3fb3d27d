"""One way to make something known: into the journal, the ledger, and before people's eyes."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Protocol

from orchestrator.journal import Event, JournalError
from orchestrator.ledger import Ledger, fold
from orchestrator.states import JobState


class Viewer(Protocol):
    """Somebody who is shown what was recorded; must not block."""

    def event(self, event: Event) -> None:
        """Something was recorded."""


class Log(Protocol):
    """Where a run's events are kept: its journal, or the store of a head."""

    def append(
        self,
        kind: str,
        reason: str = "",
        *,
        attempt: int = 0,
        state: JobState | None = None,
        **data: Any,
    ) -> Event:
        """Record an event; it is durable when this returns. Raises JournalError."""

    def events(self) -> list[Event]:
        """All that was recorded, oldest first."""


class Recorder:
    """The log of a run and what follows from it, for its one controller."""

    def __init__(self, log: Log, viewer: Viewer, ledger: Ledger | None = None) -> None:
        """`ledger` is what the log says, where that is known already."""
        self._log = log
        self._viewer = viewer
        self.ledger = ledger or fold(log.events())

    def record(self, kind: str, reason: str = "", **fields: Any) -> None:
        """Log an event, take it into the ledger, show it.

        Raises JournalError when it cannot be written, RuntimeError for an illegal move.
        """
        state = fields.get("state")
        now = self.ledger.state
        if state not in (None, now) and not now.may_become(state):
            raise RuntimeError(f"{now.value} may not become {state.value}")
        fields.setdefault("attempt", self.ledger.attempt)
        event = self._log.append(kind, reason, **fields)
        self.ledger.apply(event)
        self._show(event)

    def events(self) -> list[Event]:
        """All events, those included that a drill from outside has added."""
        return self._log.events()

    def lose_voice(self, error: JournalError) -> None:
        """Say what can no longer be written down."""
        reason = f"the run cannot be recorded any more: {error}"
        attempt = self.ledger.attempt
        self._show(Event(time.time(), "unrecorded", attempt, JobState.FAILED, reason, {}))

    def _show(self, event: Event) -> None:
        # A terminal that is gone must not cost a run.
        with contextlib.suppress(OSError):
            self._viewer.event(event)
