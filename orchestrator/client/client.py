"""The client: each method is a request of the API, and its answer a document."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

from orchestrator.client.address import Address, find
from orchestrator.client.documents import EventRow, JobRow, LogLine, Submitted
from orchestrator.client.log_streams import LogStreams
from orchestrator.client.patience import Patience
from orchestrator.client.wire import Request, Wire, with_query
from orchestrator.states import JobState

ENDED = frozenset(state.value for state in JobState if state.terminal)
"""States that a job leaves only when a person resumes it."""

_LONG_POLL = 30.0
_SLACK = 15.0
_PAGE = 10_000
_PAGE_OF_EVENTS = 1000
_TOOLS = 120.0
_VERIFY_TIMEOUT = 3600.0


def _silent(_: str) -> None:
    return None


class Client:
    """Talks to one controller, from one thread.

    A controller that goes away is waited for: reads, and submissions with their idempotency key,
    are repeated for `patience` seconds; `told` hears of it. Orders are repeated only if they were
    certainly not sent. Raises Problem when the controller refuses, Unreachable when none answers.
    """

    def __init__(
        self,
        find: Callable[[], Address],
        *,
        patience: float = 10.0,
        told: Callable[[str], None] = _silent,
    ) -> None:
        # Looked up anew for each request: a controller that was restarted may have moved.
        self._find = find
        self._patience = Patience(patience, told)
        self._wire = Wire()

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        patience: float = 10.0,
        told: Callable[[str], None] = _silent,
    ) -> Client:
        """The controller that MUSTER_URL names, else the one of MUSTER_HOME."""
        variables = os.environ if environment is None else environment
        return cls(lambda: find(variables), patience=patience, told=told)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    # -- the controller ---------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """How the controller itself is."""
        return self._get("/v1/health")

    def devices(self) -> dict[str, Any]:
        """The devices that it knows of, and how they are."""
        return self._get("/v1/devices", wait=_TOOLS)

    def down(self, *, keep_ranks: bool = False, drain: bool = False) -> dict[str, Any]:
        """Have it end; the answer comes before it has."""
        body = {"keep_ranks": keep_ranks, "drain": drain}
        return self._post("/v1/down", body)

    # -- taking in --------------------------------------------------------------------------

    def submit(
        self,
        text: str,
        *,
        file: str = "job.yaml",
        cwd: str | os.PathLike[str] | None = None,
        overrides: Sequence[str] = (),
        key: str | None = None,
    ) -> Submitted:
        """Have a job taken in: one, however often the request must be repeated.

        `text` is the job file, `file` its name in messages, `cwd` where relative paths start
        (default: here), `key` the idempotency key (default: a new one).
        """
        request = Request(
            "POST",
            "/v1/jobs",
            _job_file(text, file, cwd, overrides),
            {"Idempotency-Key": key or secrets.token_urlsafe(18)},
        )
        return cast(Submitted, self._ask(request))

    def plan(
        self,
        text: str,
        *,
        file: str = "job.yaml",
        cwd: str | os.PathLike[str] | None = None,
        overrides: Sequence[str] = (),
    ) -> dict[str, Any]:
        """What the job would start, as `muster plan --json` tells it."""
        body = _job_file(text, file, cwd, overrides)
        return cast(dict[str, Any], self._ask(Request("POST", "/v1/plan", body, timeout=_TOOLS)))

    # -- asking -----------------------------------------------------------------------------

    def jobs(
        self,
        *,
        states: Iterable[str] = (),
        user: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        page: int = _PAGE,
    ) -> Iterator[JobRow]:
        """Jobs that fit, the newest first, fetched `page` at a time."""
        query = {"state": sorted(states), "user": user, "queue": queue, "name": name, "limit": page}
        before = None
        while True:
            answer = self._get("/v1/jobs", {**query, "before": before})
            yield from answer["jobs"]
            before = answer.get("before")
            if before is None:
                return

    def job(self, job: str) -> JobRow:
        """The job as `jobs` lists it."""
        return cast(JobRow, self._get(_path(job)))

    def status(self, job: str, *, after: int | None = None, wait: float = 0.0) -> dict[str, Any]:
        """The document of `muster status --json`, with `last_event`.

        With `after` it comes once a later event has happened, or after `wait` (≤ 60) seconds.
        """
        query = {} if after is None else {"after": after, "wait": f"{wait:g}"}
        return self._get(_path(job, "status"), query, wait)

    def wait(self, job: str, timeout: float | None = None) -> dict[str, Any]:
        """The status once the job has ended. Raises TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        document = self.status(job)
        while document["state"] not in ENDED:
            left = _LONG_POLL if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{job} is still {document['state']} after {timeout:g} s")
            after = document["last_event"]
            document = self.status(job, after=after, wait=min(left, _LONG_POLL))
        return document

    def events(self, job: str, *, after: int = 0, follow: bool = False) -> Iterator[EventRow]:
        """Events later than number `after`, oldest first; with `follow` until the job has ended."""
        while True:
            # Asked first: what happened before the end is then in the page.
            last = not follow or self.job(job)["state"] in ENDED
            wait = 0.0 if last else _LONG_POLL
            query = {"after": after, "limit": _PAGE_OF_EVENTS, "wait": f"{wait:g}"}
            answer = self._get(_path(job, "events"), query, wait)
            yield from answer["events"]
            if answer["events"]:
                after = answer["events"][-1]["sequence"]
            if last and after >= answer["last_event"]:
                return

    def logs(
        self,
        job: str,
        *,
        rank: int | None = None,
        attempt: int | None = None,
        scheduler: bool = False,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """What the ranks wrote, a line at a time; with `follow` until the job has ended."""
        streams = LogStreams(self._wire, self._find, self._patience, job, rank, scheduler=scheduler)
        begun = attempt
        while True:
            # Asked first: what was written before the end is then in what follows.
            row = self.job(job)
            last = (
                not follow or row["state"] in ENDED or row["attempt"] > (attempt or row["attempt"])
            )
            newest = row["attempt"] if attempt is None else attempt
            # After a break attempts may have come and gone; a stream begins with the newest.
            for missed in range(begun or newest, newest):
                yield from streams.read(missed)
            whole = yield from streams.read(attempt, follow=follow)
            begun = streams.newest
            if last and whole:
                return

    def incidents(self, job: str | None = None) -> list[dict[str, Any]]:
        """Failures of a job, oldest first; without one those of all jobs, the newest first."""
        if job is not None:
            return cast(list[dict[str, Any]], self._get(_path(job, "incidents"))["incidents"])
        return list(self._pages("/v1/incidents", "incidents"))

    def explain(self, job: str) -> dict[str, Any]:
        """Why the job did what it did after each of its failures."""
        return self._get(_path(job, "explain"))

    def checkpoints(self, job: str, *, verify: bool = False) -> dict[str, Any]:
        """The job's checkpoints; with `verify` every byte of them is read, which takes its time."""
        query = {"verify": "true"} if verify else {}
        return self._get(_path(job, "checkpoints"), query, _VERIFY_TIMEOUT if verify else 0.0)

    # -- ordering ---------------------------------------------------------------------------

    def cancel(self, job: str) -> JobRow:
        """Stop it for good, or take it out of the queue."""
        return self._order(job, "cancel")

    def hold(self, job: str) -> JobRow:
        """Have it wait until it is released."""
        return self._order(job, "hold")

    def release(self, job: str) -> JobRow:
        """Let a held job go on."""
        return self._order(job, "release")

    def resume(self, job: str) -> JobRow:
        """Queue a job that has ended again; it goes on from its newest good checkpoint."""
        return self._order(job, "resume")

    def drill(self, job: str, fault: str) -> dict[str, Any]:
        """Break a running job on purpose."""
        return self._post(_path(job, "drills"), {"fault": fault})

    # -- the way ----------------------------------------------------------------------------

    def _order(self, job: str, order: str) -> JobRow:
        return cast(JobRow, self._post(_path(job, order), None))

    def _get(
        self, path: str, query: Mapping[str, Any] | None = None, wait: float = 0.0
    ) -> dict[str, Any]:
        request = Request("GET", with_query(path, query or {}), timeout=wait + _SLACK)
        return cast(dict[str, Any], self._ask(request))

    def _post(self, path: str, document: Any) -> dict[str, Any]:
        return cast(dict[str, Any], self._ask(Request("POST", path, document, again=False)))

    def _ask(self, request: Request) -> Any:
        return self._patience.until_answered(
            lambda: self._wire.send(self._find(), request), again=request.again
        )

    def _pages(self, path: str, name: str) -> Iterator[dict[str, Any]]:
        before = None
        while True:
            answer = self._get(path, {"limit": _PAGE_OF_EVENTS, "before": before})
            yield from answer[name]
            before = answer.get("before")
            if before is None:
                return


def _job_file(
    text: str, file: str, cwd: str | os.PathLike[str] | None, overrides: Sequence[str]
) -> dict[str, Any]:
    start = os.path.abspath(cwd if cwd is not None else ".")
    return {"text": text, "file": file, "cwd": start, "overrides": list(overrides)}


def _path(job: str, *rest: str) -> str:
    return "/".join(["/v1/jobs", quote(job, safe=""), *rest])
