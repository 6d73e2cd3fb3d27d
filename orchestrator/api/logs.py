"""The operation that streams what the ranks wrote, as it stands or as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Query

from orchestrator.api.desk import Desk
from orchestrator.api.log_files import Log, logs_of, next_piece
from orchestrator.api.problems import Refusal
from orchestrator.api.streams import Stream
from orchestrator.api.watchers import set_within
from orchestrator.layout import RunDirectory
from orchestrator.store.values import JobRecord

MEDIA_TYPE = "application/x-ndjson"
_LOOK_AGAIN = 0.25
_MOST = 1 << 62


@dataclass(frozen=True)
class _Wanted:
    """Whose logs of which attempt (None: the newest, and when following those after it)."""

    rank: int | None
    attempt: int | None
    scheduler: bool
    offset: int
    follow: bool


class Logs:
    """The handler; `operations` says under which address."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def logs(
        self,
        job: str,
        rank: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
        attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
        scheduler: bool = False,
        offset: Annotated[
            int, Query(ge=0, le=_MOST, description="bytes of the one log to leave out")
        ] = 0,
        follow: bool = False,
    ) -> Stream:
        """What the ranks wrote, a JSON object a line; with `follow` until the job has ended."""
        wanted = _Wanted(rank, attempt, scheduler, offset, follow)
        record = self._desk.head.job(job)
        directory = self._desk.head.directory(job)
        await self._desk.read(_check, wanted, record, directory)
        held = ExitStack()
        word = held.enter_context(self._desk.watchers.watch(job))
        parts = (
            self._follow(wanted, job, directory, word) if follow else self._all(wanted, directory)
        )
        return Stream(parts, held, MEDIA_TYPE)

    async def _all(self, wanted: _Wanted, directory: RunDirectory) -> AsyncIterator[bytes]:
        for log in await self._desk.read(_found, wanted, directory):
            more = b"-"
            while more:
                more, log = await self._desk.read(_next, log, True)
                if more:
                    yield more

    async def _follow(
        self, wanted: _Wanted, job: str, directory: RunDirectory, word: asyncio.Event
    ) -> AsyncIterator[bytes]:
        known: dict[tuple[int, int | None], Log] = {}
        first = 0
        while True:
            word.clear()
            # Asked before the logs are read: what was written by the end is told.
            record = self._desk.head.job(job)
            over = record.state.terminal or record.attempt > (wanted.attempt or record.attempt)
            over = over or self._desk.watchers.closed
            for log in await self._desk.read(_found, wanted, directory, first):
                known.setdefault((log.attempt, log.rank), log)
                first = first or log.attempt
            silent = True
            newest = max((attempt for attempt, _ in known), default=0)
            for place, log in known.items():
                more, known[place] = await self._desk.read(_next, log, over or log.attempt < newest)
                if more:
                    silent = False
                    yield more
            if silent and over:
                return
            if silent:
                await set_within(word, _LOOK_AGAIN)


def _check(wanted: _Wanted, record: JobRecord, directory: RunDirectory) -> None:
    """Raises Refusal for logs that cannot be."""
    one = wanted.rank is not None or wanted.scheduler
    if wanted.rank is not None and wanted.scheduler:
        raise Refusal(422, "rank and scheduler: ask for one of them")
    if wanted.offset and not one:
        raise Refusal(422, "offset is of one log: give rank or scheduler too")
    if wanted.rank is not None and wanted.rank >= record.ranks:
        raise Refusal(404, f"{record.job} has no rank {wanted.rank}: it has {record.ranks}")
    attempts = directory.attempts()
    if wanted.attempt and attempts and wanted.attempt not in attempts and not wanted.follow:
        raise Refusal(404, f"{record.job} has no attempt {wanted.attempt}, only {attempts}")


def _found(wanted: _Wanted, directory: RunDirectory, first: int = 0) -> list[Log]:
    """The logs that are there now; of all attempts from `first` on, if it is known."""
    attempts = directory.attempts()
    if wanted.attempt is not None:
        attempts = [one for one in attempts if one == wanted.attempt]
    elif first:
        attempts = [one for one in attempts if one >= first]
    found = [
        log
        for attempt in (attempts if first else attempts[-1:])
        for log in logs_of(directory, attempt, wanted.rank, scheduler=wanted.scheduler)
    ]
    return [
        replace(log, offset=wanted.offset if number == 0 else 0) for number, log in enumerate(found)
    ]


def _next(log: Log, complete: bool) -> tuple[bytes, Log]:
    return next_piece(log, complete=complete)
