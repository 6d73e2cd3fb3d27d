"""Operations on jobs: submit, list, order, break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated
from weakref import WeakValueDictionary

from fastapi import Header, Query
from starlette.requests import Request

from orchestrator import jobfile
from orchestrator.api.desk import Desk, caller
from orchestrator.api.encoding import Json
from orchestrator.api.problems import Refusal
from orchestrator.api.rows import SCHEMA, row, submitted
from orchestrator.api.schemas import KEY, LONGEST_KEY, Fault, JobText
from orchestrator.orders import OrderKind
from orchestrator.service.tokens import Role, Token
from orchestrator.spec import JobSpec
from orchestrator.states import JobState
from orchestrator.store.values import LARGEST_PAGE, Filter, JobRecord, Page
from orchestrator.support import not_built

_SOON_READ = 8192
"""Characters of a job file that are read faster than a thread is woken for them."""
_MOST = 1 << 62

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=LONGEST_KEY,
        pattern=KEY,
        description="the same key and body again are answered with the same job",
    ),
]
Word = Annotated[str | None, Query(max_length=256)]


def spec_of(body: JobText) -> JobSpec:
    """The job of a body. Raises JobFileError."""
    return jobfile.loads(body.text, body.overrides, body.cwd, file=body.file)


def _runnable(body: JobText) -> JobSpec:
    """The same. Raises Refusal too, for what is valid and not built yet."""
    spec = spec_of(body)
    missing = not_built(spec)
    if missing:
        told = "\n".join(one.describe(body.file) for one in missing)
        raise Refusal(422, told, missing)
    return spec


class Jobs:
    """Handlers; `operations` says under which addresses."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def submit(self, body: JobText, request: Request, key: Key = None) -> Json:
        """Take a job in; it is durable when this answers. 200 if this key made it before."""
        if len(body.text) + sum(map(len, body.overrides)) <= _SOON_READ:
            spec = _runnable(body)
        else:
            spec = await self._desk.read(_runnable, body)
        user, text = caller(request).name, body.text.encode()
        if key is None:
            record, known = await self._take_in(spec, text, user, None), False
        else:
            # Retries of one submission wait for each other, so that one of them is the first.
            turn = self._turns.setdefault((user, key), asyncio.Lock())
            async with turn:
                known = self._desk.head.store.job_of_key(user, key) is not None
                record = await self._take_in(spec, text, user, key)
        return Json(submitted(record, self._desk.head.waiting()), 200 if known else 201)

    async def _take_in(self, spec: JobSpec, text: bytes, user: str, key: str | None) -> JobRecord:
        future = self._desk.head.submit(spec, text, user=user, key=key)
        return await asyncio.wrap_future(future)

    async def many(
        self,
        state: Annotated[list[JobState], Query(max_length=len(JobState))] = [],  # noqa: B006
        user: Word = None,
        queue: Word = None,
        name: Word = None,
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 100,
        before: Annotated[int | None, Query(ge=0, le=_MOST)] = None,
    ) -> Json:
        """A page of jobs, the newest submission first."""
        wanted = Filter(frozenset(state), user, queue, name)
        return await self._desk.read(self._page, wanted, Page(limit, before))

    def _page(self, wanted: Filter, page: Page) -> Json:
        waiting = self._desk.head.waiting()
        found = self._desk.head.store.jobs(wanted, page)
        rows = [row(record, waiting) for record in found.jobs]
        return Json(
            {"schema": SCHEMA, "observed_at": time.time(), "jobs": rows, "before": found.before}
        )

    async def one(self, job: str) -> Json:
        """A job as it stands."""
        return self._row(self._desk.head.job(job))

    def _row(self, record: JobRecord) -> Json:
        return Json(row(record, self._desk.head.waiting()))

    def ordering(self, kind: OrderKind) -> Callable[[str, Request], Awaitable[Json]]:
        """The handler of an order."""

        async def order(job: str, request: Request) -> Json:
            who = caller(request)
            self._expect_own(job, who)
            return self._row(await self._desk.read(self._desk.head.order, job, kind, who.name))

        order.__doc__ = (
            f"{kind.value.capitalize()} a job; with less than an admin's role, an own one."
        )
        return order

    async def drill(self, job: str, body: Fault, request: Request) -> Json:
        """Break a running job on purpose."""
        self._expect_own(job, caller(request))
        await self._desk.read(self._desk.head.drill, job, body.fault)
        return Json({"schema": SCHEMA, "job": job, "fault": body.fault}, 202)

    def _expect_own(self, job: str, who: Token) -> None:
        """Raises NoSuchJob, and Refusal for the job of somebody else."""
        record = self._desk.head.job(job)
        if record.user != who.name and not who.role.covers(Role.ADMIN):
            raise Refusal(
                403,
                f"{job} is {record.user}'s: with the role {who.role.value} one orders one's own "
                "jobs only; an admin's token may order all",
            )
