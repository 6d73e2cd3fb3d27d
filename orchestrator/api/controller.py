"""Operations on the controller itself: how it is, and its end."""

from __future__ import annotations

import time

from orchestrator.api.desk import Desk, Ending
from orchestrator.api.encoding import Json
from orchestrator.api.problems import Refusal
from orchestrator.api.rows import SCHEMA
from orchestrator.api.schemas import Down


class Controller:
    """Handlers; `operations` says under which addresses."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def health(self) -> Json:
        """How the controller is: its process, its store, what it drives, what it warns of."""
        told = await self._desk.read(self._desk.head.health)
        warnings = [*told.get("warnings", ()), *self._desk.warnings]
        return Json({"schema": SCHEMA, "observed_at": time.time(), **told, "warnings": warnings})

    async def down(self, body: Down) -> Json:
        """Take no more jobs in, and end: stopping what runs, leaving it, or waiting for its end."""
        if body.keep_ranks and body.drain:
            raise Refusal(422, "keep_ranks leaves jobs running, drain waits for them: choose one")
        self._desk.end(Ending(body.keep_ranks, body.drain))
        return Json({"schema": SCHEMA, "keep_ranks": body.keep_ranks, "drain": body.drain}, 202)
