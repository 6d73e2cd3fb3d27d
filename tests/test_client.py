"""The typed client, against a real controller that is killed now and then."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client import Address, Client, Problem, Unreachable, find
from orchestrator.jobfile import JobFileError, loads
from orchestrator.service.tokens import Role, Tokens
from tests.heads import JOB, PATIENCE, ScriptedHead
from tests.runs import poll

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedHead]:
    """A controller for all tests, those included that kill it."""
    head = ScriptedHead(tmp_path_factory.mktemp("head"))
    yield head
    head.kill()


@pytest.fixture
def head(shared: ScriptedHead) -> ScriptedHead:
    """The controller, alive."""
    return shared if shared.lives else shared.start()


@pytest.fixture
def client(head: ScriptedHead) -> Iterator[Client]:
    """A client of it."""
    with head.client() as client:
        yield client


class Collected:
    """What an iterator yields, collected in a thread."""

    def __init__(self, entries: Iterator[Any]) -> None:
        self.entries: list[Any] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(entries,), daemon=True)
        self._thread.start()

    def _run(self, entries: Iterator[Any]) -> None:
        try:
            for entry in entries:
                self.entries.append(entry)
        except Exception as error:
            self.error = error

    def all(self, timeout: float = PATIENCE) -> list[Any]:
        """Everything, once the iterator has ended."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"goes on after {self.entries}"
        if self.error is not None:
            raise self.error
        return self.entries


def later(ask: Callable[[], Any]) -> Iterator[Any]:
    """What `ask` returns, asked when the iterator is."""
    yield ask()


def test_a_key_makes_a_repeated_submission_the_same_job(client: Client) -> None:
    """The same key and file are one job; with another file the key is refused."""
    first = client.submit(JOB, key="night-1")
    assert client.submit(JOB, key="night-1")["job"] == first["job"]
    assert client.submit(JOB)["job"] != first["job"]
    with pytest.raises(Problem) as refused:
        client.submit(JOB, key="night-1", overrides=["resources.ranks=4"])
    assert refused.value.status == 409
    assert first["job"] in str(refused.value)


def test_every_mistake_of_a_file_comes_back(client: Client) -> None:
    """What the controller refuses reads like what a local run refuses, and is told in parts."""
    text = JOB.replace("ranks: 2", "ranks: two") + "nmae: x\n"
    with pytest.raises(JobFileError) as here:
        loads(text, ["limits.wait=soon"], file="my.yaml")
    with pytest.raises(Problem) as there:
        client.submit(text, file="my.yaml", overrides=["limits.wait=soon"])
    assert there.value.status == 422
    assert str(there.value) == str(here.value)
    assert [problem["line"] for problem in there.value.problems] == [5, 6, None]


def test_relative_paths_start_where_the_client_stands(client: Client, tmp_path: Path) -> None:
    """A job without a workdir has the one that was given as `cwd`."""
    with pytest.raises(Problem, match=r"nowhere"):
        client.submit(JOB, cwd=tmp_path, overrides=["workdir=~nobody-of-that-name/nowhere"])
    planned = client.submit(JOB.replace("workdir: /\n", ""), cwd=tmp_path)
    assert planned["state"] == "QUEUED"


def test_jobs_come_page_by_page(client: Client) -> None:
    """Every job once, the newest first, however small the pages are."""
    ids = [client.submit(JOB, overrides=["name=paged"])["job"] for _ in range(5)]
    rows = list(client.jobs(name="paged", page=2))
    assert [row["job"] for row in rows] == ids[::-1]
    assert rows[0]["position"] is None
    assert [row["job"] for row in client.jobs(name="paged", states=["FAILED"])] == []


def test_waiting_ends_with_the_job(head: ScriptedHead, client: Client) -> None:
    """`wait` returns the last status; where it takes too long it says in which state the job is."""
    job = head.submit()
    with pytest.raises(TimeoutError, match=f"{job} is still QUEUED"):
        client.wait(job, timeout=0.2)
    waiting = Collected(later(lambda: client.wait(job)))
    head.move(job, "STARTING", "RUNNING", "SUCCEEDED")
    (document,) = waiting.all()
    assert document["state"] == "SUCCEEDED"


def test_orders_move_jobs(head: ScriptedHead, client: Client) -> None:
    """Hold, release, cancel and resume answer with the job as it is then."""
    job = head.submit()
    assert client.hold(job)["state"] == "HELD"
    assert client.release(job)["state"] == "QUEUED"
    assert client.cancel(job)["state"] == "CANCELLED"
    assert client.resume(job)["state"] == "QUEUED"
    with pytest.raises(Problem, match="only a job that is HELD") as refused:
        client.release(job)
    assert refused.value.status == 409


def test_unknown_jobs_and_strange_names_are_not_found(client: Client) -> None:
    """Whatever stands for a job, it is a name in one address and nothing else."""
    for name in ("small-000000", "../../x", "a/b?c=d#e", "ä\n"):
        with pytest.raises(Problem) as refused:
            client.job(name)
        assert refused.value.status == 404


def test_a_token_opens_what_its_role_may(head: ScriptedHead) -> None:
    """A reader may not order; an unknown token may nothing; neither is repeated."""
    text = Tokens(head.home).add("reader", Role.READ)
    url = _url(head)
    reader = Client(lambda: Address(url, text))
    job = head.submit()
    assert reader.job(job)["user"]
    for order, status in ((reader.cancel, 403), (Client(lambda: Address(url, "x")).job, 401)):
        with pytest.raises(Problem) as refused:
            order(job)
        assert refused.value.status == status
        assert text not in str(refused.value)


def test_events_follow_a_job_over_the_death_of_its_controller(head: ScriptedHead) -> None:
    """Each event comes once and in order, though the controller was killed in between."""
    job = head.submit()
    told: list[str] = []
    events = Collected(head.client(told=told.append).events(job, follow=True))
    head.move(job, "STARTING", "RUNNING")
    poll(lambda: len(events.entries) == 3, PATIENCE, "three events")
    head.kill()
    poll(lambda: told, PATIENCE, "a word about the controller")
    head.start()
    head.move(job, "SUCCEEDED")
    assert [event["sequence"] for event in events.all()] == [1, 2, 3, 4]
    assert events.entries[-1]["state"] == "SUCCEEDED"
    assert "trying again for 30 s" in told[0]
    assert told[-1] == "the controller answers again"


def test_logs_follow_a_job_over_the_death_of_its_controller(head: ScriptedHead) -> None:
    """Each line of each rank and attempt comes once, those written meanwhile included."""
    job = head.submit()
    head.move(job, "STARTING", "RUNNING")
    for rank in (0, 1):
        head.log(job, "one\ntwo\n", rank=rank)
    lines = Collected(head.client().logs(job, follow=True))
    poll(lambda: len(lines.entries) == 4, PATIENCE, "four lines")
    head.kill()
    head.log(job, "three\n", rank=1)
    head.log(job, "again\n", attempt=2)
    head.start()
    head.move(job, "STOPPING", "RECOVERING", "STARTING", "RUNNING", attempt=2)
    head.log(job, "end\n", attempt=2)
    head.move(job, "SUCCEEDED", attempt=2)
    found = [(line["attempt"], line["rank"], line["line"]) for line in lines.all()]
    assert sorted(found) == [
        (1, 0, "one"), (1, 0, "two"), (1, 1, "one"), (1, 1, "three"), (1, 1, "two"),
        (2, 0, "again"), (2, 0, "end"),
    ]  # fmt: skip
    assert len(found) == 7


def test_one_log_goes_on_behind_what_was_read(head: ScriptedHead) -> None:
    """Of a single log that breaks off only the rest is asked for, and no line is torn."""
    job = head.submit()
    head.move(job, "STARTING", "RUNNING")
    head.log(job, "first\nhalf a l")
    lines = Collected(head.client().logs(job, rank=0, attempt=1, follow=True))
    poll(lambda: lines.entries, PATIENCE, "a line")
    head.kill()
    head.log(job, "ine\n")
    head.start()
    head.move(job, "STOPPING", "FAILED")
    assert [line["line"] for line in lines.all()] == ["first", "half a line"]


@contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of something that takes connections, one after another."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_an_order_without_an_answer_is_not_given_twice() -> None:
    """What may have been carried out is left to the person; a question is asked again."""
    heard: list[bytes] = []
    with listener(lambda connection: heard.append(connection.recv(65536))) as url:
        client = Client(lambda: Address(url, "t"), patience=0.3)
        with pytest.raises(Unreachable, match="may have been carried out"):
            client.cancel("small-000000")
        assert len(heard) == 1
        with pytest.raises(Unreachable):
            client.job("small-000000")
        assert len(heard) > 2


def test_a_submission_whose_answer_is_lost_makes_one_job(head: ScriptedHead) -> None:
    """The repeated request carries the same key, so it finds the job of the first."""
    url, token = _url(head), head.home.token.read_text().strip()
    answers: list[bytes] = []

    def between(connection: socket.socket) -> None:
        request = b""
        while JOB.splitlines()[0].encode() not in request:
            request += connection.recv(65536)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as behind:
            behind.sendall(request)
            answers.append(b"")
            while not answers[-1].endswith(b"}"):
                answers[-1] += behind.recv(65536)
        if len(answers) > 1:
            connection.sendall(answers[-1])

    with listener(between) as detour:
        client = Client(lambda: Address(detour, token))
        taken = client.submit(JOB, overrides=["name=lost"])
    assert [answer[9:12] for answer in answers] == [b"201", b"200"]
    with head.client() as direct:
        assert [row["job"] for row in direct.jobs(name="lost")] == [taken["job"]]


def test_reads_survive_a_restart_at_another_address(head: ScriptedHead) -> None:
    """The same client finds the new controller, wherever that listens."""
    job = head.submit()
    client = head.client()
    before = client.job(job)
    head.kill()
    reading = Collected(later(lambda: client.job(job)))
    head.start()
    assert reading.all() == [before]


def _url(head: ScriptedHead) -> str:
    return find(head.environment).url
