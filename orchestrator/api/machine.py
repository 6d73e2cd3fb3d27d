"""Operations on the head's own machine: its devices, and what a job would start there."""

from __future__ import annotations

from orchestrator.api.desk import Desk


class Machine:
    """Handlers; `operations` says under which addresses."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def plan(self): ...
    async def devices(self): ...
    async def bar(self): ...
    async def unbar(self): ...
