"""Operations that tell how a job goes, at once or when there is something new."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import Header, Query
from starlette.requests import Request

from orchestrator import checkpoint_list, explain
from orchestrator.api import rows
from orchestrator.api.desk import Desk
from orchestrator.api.encoding import Json, encoded
from orchestrator.api.gate import gone
from orchestrator.api.streams import Stream
from orchestrator.api.watchers import set_within
from orchestrator.layout import read_json
from orchestrator.service.store_log import all_events
from orchestrator.store.values import JobRecord, Page, Told

SCHEMA = rows.SCHEMA
LARGEST = 1000
"""Events or incidents in an answer: their data may be long."""
_MOST = 1 << 62

After = Annotated[int, Query(ge=0, le=_MOST, description="the newest event that is known already")]
Wait = Annotated[
    float,
    Query(ge=0, le=60, allow_inf_nan=False, description="seconds to wait for a newer event"),
]
Limit = Annotated[int, Query(ge=1, le=LARGEST)]


class Watching:
    """Handlers; `operations` says under which addresses."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def status(self, job: str, request: Request, after: After = 0, wait: Wait = 0.0) -> Json:
        """Where a job stands, rank by rank; with `wait`, once there is an event after `after`."""
        record = await self._newer(job, request, after, wait)
        # The number first: whoever asks on from there misses nothing.
        document = await self._desk.read(self._desk.head.status, job)
        return Json({**document, "last_event": record.last_event})

    async def events(
        self,
        job: str,
        request: Request,
        after: After = 0,
        limit: Limit = LARGEST,
        wait: Wait = 0.0,
    ) -> Json:
        """What happened to a job and what was decided, in order."""
        record = await self._newer(job, request, after, wait)
        return await self._desk.read(self._events, job, after, limit, record.last_event)

    def _events(self, job: str, after: int, limit: int, last: int) -> Json:
        told = self._desk.head.store.events(job, after, limit)
        return Json(
            {
                "schema": SCHEMA,
                "observed_at": time.time(),
                "events": [rows.event(one) for one in told],
                "last_event": max([last, *(one.sequence for one in told)]),
            }
        )

    async def _newer(self, job: str, request: Request, after: int, wait: float) -> JobRecord:
        """The job, at once or when it has an event after `after`, or after `wait` seconds."""
        record = self._desk.head.job(job)
        if record.last_event > after or not wait:
            return record
        deadline = time.monotonic() + wait
        with self._desk.watchers.watch(job) as word:
            leaving = asyncio.create_task(gone(request))
            leaving.add_done_callback(lambda _: word.set())
            try:
                while True:
                    word.clear()
                    record = self._desk.head.job(job)
                    left = deadline - time.monotonic()
                    if record.last_event > after or leaving.done() or self._desk.watchers.closed:
                        return record
                    if left <= 0 or not await set_within(word, left):
                        return record
            finally:
                leaving.cancel()

    async def stream(
        self,
        job: str,
        after: After = 0,
        last_event_id: Annotated[
            int | None, Header(ge=0, le=_MOST, description="goes before `after`")
        ] = None,
    ) -> Stream:
        """A job's events as server-sent events until it has ended; an event's id is its number."""
        self._desk.head.job(job)
        held = ExitStack()
        word = held.enter_context(self._desk.watchers.watch(job))
        first = after if last_event_id is None else last_event_id
        return Stream(self._told(job, first, word), held, "text/event-stream")

    async def _told(self, job: str, after: int, word: asyncio.Event) -> AsyncIterator[bytes]:
        while True:
            word.clear()
            # Read before the events: what ends a job is an event, and so among them.
            ended = self._desk.head.job(job).state.terminal
            told = await self._desk.read(self._desk.head.store.events, job, after, LARGEST)
            if told:
                yield b"".join(map(_sent, told))
                after = told[-1].sequence
            elif ended or self._desk.watchers.closed:
                return
            elif not await set_within(word, self._desk.limits.keep_alive_comment):
                yield b": still here\n\n"

    async def incidents(self, job: str) -> Json:
        """A job's failures: what died, what it cost, what was decided."""

        def read() -> Json:
            found = self._desk.head.store.incidents(job)
            return _incidents([rows.incident(job, one) for one in found])

        return await self._desk.read(read)

    async def all_incidents(
        self,
        limit: Limit = 100,
        before: Annotated[int | None, Query(ge=0, le=_MOST)] = None,
    ) -> Json:
        """Failures of all jobs, the newest first."""

        def read() -> Json:
            found = self._desk.head.store.all_incidents(Page(limit, before))
            told = [rows.incident(one.job, one.incident) for one in found]
            return _incidents(told, before=found[-1].number if len(found) == limit else None)

        return await self._desk.read(read)

    async def explain(self, job: str) -> Json:
        """Why a job did what it did after each of its failures."""

        def read() -> Json:
            head = self._desk.head
            directory, status = head.directory(job), head.status(job)
            return Json(
                explain.document(
                    list(all_events(head.store, job)),
                    read_json(directory.spec),
                    job=job,
                    run_dir=str(directory.root),
                    observed_at=time.time(),
                    goodput=status.get("goodput"),
                )
            )

        return await self._desk.read(read)

    async def checkpoints(self, job: str, verify: bool = False) -> Json:
        """A job's checkpoints; `verify` reads every byte of them, which may take minutes."""
        directory = self._desk.head.directory(job)
        do = self._desk.use_tools if verify else self._desk.read

        def read() -> Json:
            return Json(checkpoint_list.document(directory, verified=verify))

        return await do(read)


def _sent(told: Told) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (told.sequence, encoded(rows.event(told)))


def _incidents(told: list[dict[str, Any]], **more: int | None) -> Json:
    return Json({"schema": SCHEMA, "observed_at": time.time(), "incidents": told, **more})
