"""Waiting for news through the API: long polls, streams of events, and logs as they grow."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.api.desk import Limits
from orchestrator.api.log_files import PIECE
from orchestrator.layout import RunDirectory
from orchestrator.service.tokens import Role
from orchestrator.states import JobState
from tests.apis import Api, lines, problem, served
from tests.runs import poll

RUN = (JobState.STARTING, JobState.RUNNING)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One server for all tests of this module."""
    with served(tmp_path_factory.mktemp("home"), Limits(keep_alive_comment=0.2)) as made:
        yield made


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    """A client that may only read."""
    with api.client(Role.READ) as made:
        yield made


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Threads that wait while the test goes on."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def write_log(api: Api, job: str, text: str | bytes, attempt: int = 1, rank: int = 0) -> Path:
    """Have a rank write to its log."""
    files = RunDirectory(Path(api.head.job(job).run_dir)).attempt(attempt)
    files.logs.mkdir(parents=True, exist_ok=True)
    with open(files.log(rank), "ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)
    return files.log(rank)


def told_of(stream: httpx.Response) -> Iterator[dict[str, Any]]:
    """Events of a stream; comments are passed over."""
    number = 0
    for line in stream.iter_lines():
        if line.startswith("id: "):
            number = int(line[4:])
        if line.startswith("data: "):
            event = json.loads(line[6:])
            assert event["sequence"] == number
            yield event


def test_a_long_poll_answers_at_once_what_is_new_already(api: Api, client: httpx.Client) -> None:
    """It waits only if it knows everything there is."""
    job = api.submit()["job"]
    told = client.get(f"/v1/jobs/{job}/events", params={"after": 0, "wait": 60}).json()
    assert [one["kind"] for one in told["events"]] == ["created"]
    status = client.get(f"/v1/jobs/{job}/status", params={"after": 0, "wait": 60}).json()
    assert (status["job"], status["state"], status["last_event"]) == (job, "QUEUED", 1)


def test_a_long_poll_is_woken_by_an_event(
    api: Api, client: httpx.Client, aside: ThreadPoolExecutor
) -> None:
    """Status and events alike, by an event of that very job."""
    job, other = api.submit()["job"], api.submit()["job"]
    query = {"after": 1, "wait": 60}
    paths = [f"/v1/jobs/{job}/{path}" for path in ("status", "events")]
    before = api.desk.watchers.count
    waits = [aside.submit(client.get, path, params=query, timeout=70) for path in paths]
    poll(lambda: api.desk.watchers.count == before + 2, 10.0, "two that wait")
    api.move(other, JobState.HELD)
    api.move(job, JobState.HELD)
    status, events = (wait.result(10.0).json() for wait in waits)
    assert (status["state"], status["last_event"]) == ("HELD", 2)
    assert [one["state"] for one in events["events"]] == ["HELD"]


def test_no_wake_up_is_lost(api: Api, client: httpx.Client, aside: ThreadPoolExecutor) -> None:
    """However polls and events interleave, each event is told once and in order."""
    job = api.submit()["job"]

    def follow() -> list[int]:
        seen: list[int] = [1]
        while seen[-1] < 101:
            query = {"after": seen[-1], "wait": 20}
            found = client.get(f"/v1/jobs/{job}/events", params=query).json()["events"]
            assert found, "nothing new in 20 s"
            seen += [one["sequence"] for one in found]
        return seen

    follower = aside.submit(follow)
    for _ in range(50):
        api.move(job, JobState.HELD, JobState.QUEUED)
    assert follower.result(60.0) == list(range(1, 102))


def test_a_long_poll_ends_with_what_there_is(api: Api, client: httpx.Client) -> None:
    """Without news after its time; a time beyond a minute is refused."""
    job = api.submit()["job"]
    told = client.get(f"/v1/jobs/{job}/events", params={"after": 1, "wait": 0.05}).json()
    assert (told["events"], told["last_event"]) == ([], 1)
    for wait in (61, -1, "nan", "inf"):
        problem(client.get(f"/v1/jobs/{job}/events", params={"wait": wait}), 422)


def test_a_stream_tells_each_event_once_and_ends_with_the_job(
    api: Api, client: httpx.Client, aside: ThreadPoolExecutor
) -> None:
    """From the first event to the one that ends it, as they happen."""
    job = api.submit()["job"]
    seen: list[str] = []
    started = threading.Event()

    def follow() -> None:
        with client.stream("GET", f"/v1/jobs/{job}/events/stream") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for event in told_of(stream):
                seen.append(event["state"])
                started.set()

    follower = aside.submit(follow)
    assert started.wait(10.0)
    api.move(job, *RUN, JobState.SUCCEEDED)
    follower.result(10.0)
    assert seen == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]


def test_a_stream_is_resumed_where_it_broke(api: Api, client: httpx.Client) -> None:
    """`Last-Event-ID` goes before `after`; a job that has ended tells the rest and ends."""
    job = api.submit()["job"]
    api.move(job, *RUN, JobState.SUCCEEDED)
    path, headers = f"/v1/jobs/{job}/events/stream", {"Last-Event-ID": "2"}
    for query, sent, first in (({}, headers, 3), ({"after": 1}, {}, 2), ({"after": 1}, headers, 3)):
        with client.stream("GET", path, params=query, headers=sent) as stream:
            told = [event["sequence"] for event in told_of(stream)]
        assert told == list(range(first, 5))
    problem(client.get(path, headers={"Last-Event-ID": "x"}), 422)


def test_a_silent_stream_shows_that_it_lives(api: Api, client: httpx.Client) -> None:
    """By comments, so that neither side takes it for dead."""
    job = api.submit()["job"]
    with client.stream("GET", f"/v1/jobs/{job}/events/stream?after=1") as stream:
        assert next(stream.iter_lines()).startswith(":")


def test_logs_are_told_rank_by_rank(api: Api, client: httpx.Client) -> None:
    """Whole lines with where they come from; broken bytes and progress bars harm nothing."""
    job = api.submit()["job"]
    write_log(api, job, "one\ntwo\r three\n")
    write_log(api, job, b"\xff\n\nlast", rank=1)
    told = lines(client.get(f"/v1/jobs/{job}/logs").text)
    assert [(one["rank"], one["line"]) for one in told] == [
        (0, "one"),
        (0, "two\r three"),
        (1, "\ufffd"),
        (1, ""),
        (1, "last"),
    ]
    assert {one["attempt"] for one in told} == {1}
    query = {"rank": 0, "offset": told[0]["offset"]}
    assert lines(client.get(f"/v1/jobs/{job}/logs", params=query).text) == [told[1]]


def test_a_long_line_comes_in_bounded_pieces(api: Api, client: httpx.Client) -> None:
    """Nothing of it is lost, and no more than a piece is in memory."""
    job = api.submit()["job"]
    write_log(api, job, "x" * (3 * PIECE) + "y\nz\n")
    told = [one["line"] for one in lines(client.get(f"/v1/jobs/{job}/logs").text)]
    assert max(map(len, told)) <= PIECE
    assert "".join(told[:-1]) == "x" * (3 * PIECE) + "y" and told[-1] == "z"


def test_logs_that_cannot_be_are_refused(api: Api, client: httpx.Client) -> None:
    """A rank or an attempt that is not there; two logs where there is one offset."""
    job = api.submit()["job"]
    write_log(api, job, "one\n")
    for query, status in (
        ({"rank": 2}, 404),
        ({"attempt": 7}, 404),
        ({"rank": 0, "scheduler": True}, 422),
        ({"offset": 1}, 422),
        ({"rank": -1}, 422),
    ):
        problem(client.get(f"/v1/jobs/{job}/logs", params=query), status)


def test_a_pipe_in_a_logs_place_holds_nobody(api: Api, client: httpx.Client) -> None:
    """A rank may put anything there."""
    job = api.submit()["job"]
    path = write_log(api, job, "")
    path.unlink()
    os.mkfifo(path)
    assert lines(client.get(f"/v1/jobs/{job}/logs").text) == []


def test_logs_are_followed_across_attempts_to_the_end(
    api: Api, client: httpx.Client, aside: ThreadPoolExecutor
) -> None:
    """From before the first start, over a restart, to the last words; a line is told when whole."""
    job = api.submit()["job"]
    seen: list[tuple[int, int, str]] = []

    def follow() -> None:
        with client.stream("GET", f"/v1/jobs/{job}/logs?follow=true") as stream:
            for line in stream.iter_lines():
                one = json.loads(line)
                seen.append((one["attempt"], one["rank"], one["line"]))

    follower = aside.submit(follow)
    api.move(job, *RUN)
    write_log(api, job, "first\nhal")
    poll(lambda: (1, 0, "first") in seen, 10.0, "the first line")
    assert len(seen) == 1
    write_log(api, job, "f\n")
    api.move(job, JobState.STOPPING, JobState.RECOVERING)
    write_log(api, job, "again\n", attempt=2, rank=1)
    api.move(job, *RUN, attempt=2)
    write_log(api, job, "no end", attempt=2, rank=1)
    api.move(job, JobState.SUCCEEDED, attempt=2)
    follower.result(10.0)
    assert sorted(seen) == [(1, 0, "first"), (1, 0, "half"), (2, 1, "again"), (2, 1, "no end")]


def test_one_attempt_is_followed_to_its_own_end(
    api: Api, client: httpx.Client, aside: ThreadPoolExecutor
) -> None:
    """With `attempt` given, the next one ends the stream."""
    job = api.submit()["job"]
    write_log(api, job, "one\n")
    api.move(job, *RUN)
    path = f"/v1/jobs/{job}/logs?follow=true&attempt=1&rank=0"
    follower = aside.submit(client.get, path)
    api.move(job, JobState.STOPPING, JobState.RECOVERING, JobState.STARTING, attempt=2)
    assert [one["line"] for one in lines(follower.result(10.0).text)] == ["one"]


def test_a_server_that_ends_lets_everybody_go(tmp_path: Path, aside: ThreadPoolExecutor) -> None:
    """Long polls are answered, streams end, and nothing waits for the last second."""
    with served(tmp_path) as api, api.client() as client:
        job = api.submit()["job"]
        paths = ("events?after=1&wait=60", "events/stream", "logs?follow=true")
        waits = [aside.submit(client.get, f"/v1/jobs/{job}/{path}") for path in paths]
        poll(lambda: api.desk.watchers.count == 3, 10.0, "three who wait")
        api.loop.call_soon_threadsafe(api.desk.watchers.close)
        assert [wait.result(10.0).status_code for wait in waits] == [200] * 3
