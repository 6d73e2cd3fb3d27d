"""Who may ask the API what, and how much of what: tokens, roles, sizes, times and numbers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api import connection
from orchestrator.api.desk import Limits
from orchestrator.api.operations import operations
from orchestrator.service.tokens import Role, Tokens
from tests.apis import BODY, PROBLEM, Api, problem, served
from tests.runs import poll

LIMITS = Limits(requests=6, waiting=2, body_seconds=1.0)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One server with small limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "HEAD_SECONDS", 1.0)
        patch.setattr(connection, "STALLED_SECONDS", 1.0)
        patch.setattr(connection, "CONNECTIONS", 20)
        with served(tmp_path_factory.mktemp("home"), LIMITS) as made:
            yield made


class Raw:
    """A connection on which anything can be sent."""

    def __init__(self, api: Api) -> None:
        self._socket = socket.create_connection(("127.0.0.1", api.port), 30.0)
        self._token = api.tokens[Role.ADMIN]

    def send(self, data: bytes) -> Raw:
        self._socket.sendall(data)
        return self

    def request(self, line: str, *headers: str, body: bytes = b"") -> Raw:
        """A request with the admin's token."""
        all_ = (line + " HTTP/1.1", "Host: x", f"Authorization: Bearer {self._token}", *headers)
        return self.send("\r\n".join((*all_, "", "")).encode() + body)

    def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        read = bytearray()
        try:
            while data := self._socket.recv(1 << 16):
                read += data
        except ConnectionResetError:
            pass
        return bytes(read)

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and document of an answer after which the server closes."""
        head, _, body = self.rest().partition(b"\r\n\r\n")
        assert f"content-type: {PROBLEM}".encode() in head.lower(), head
        return int(head.split()[1]), json.loads(body)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def addresses(api: Api) -> list[tuple[str, str, Role]]:
    """Every operation, with a job's id that nobody has."""
    return [
        (one.method, one.path.replace("{job}", "nobody-000000"), one.role)
        for one in operations(api.desk)
    ]


def test_nothing_is_told_without_a_token(api: Api) -> None:
    """No operation, no description, no unknown address; whatever stands in place of a token."""
    text = api.tokens[Role.ADMIN]
    wrong = ["", "Bearer", f"Basic {text}", f"Bearer {text}x", "Bearer \xff", f"bearer{text}"]
    others = [("GET", "/openapi.json"), ("GET", "/"), ("GET", "/docs"), ("PATCH", "/v1/jobs")]
    with api.client(None) as client:
        for method, path in [*((m, p) for m, p, _ in addresses(api)), *others]:
            answer = client.request(method, path)
            problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for header in wrong:
            problem(
                client.get("/v1/health", headers={"Authorization": header.encode("latin-1")}), 401
            )
        twice = [("Authorization", f"Bearer {text}")] * 2
        problem(client.get("/v1/health", headers=twice), 401)
        assert client.get("/v1/health", headers=twice[:1]).status_code == 200


def test_each_role_does_what_it_may_and_no_more(api: Api) -> None:
    """Every operation beside every role: 403 below its own, something else from it on."""
    order = list(Role)
    for method, path, needed in addresses(api):
        for role in order:
            with api.client(role) as client:
                answer = client.request(method, path)
            allowed = order.index(role) >= order.index(needed)
            assert (answer.status_code != 403) is allowed, (method, path, role, answer.text)
            if not allowed:
                assert needed.value in problem(answer, 403)["detail"]


def test_a_removed_token_opens_nothing_from_then_on(api: Api) -> None:
    """And a new one does, without a restart."""
    tokens = Tokens(api.home)
    with api.client(None) as client:
        headers = {"Authorization": f"Bearer {tokens.add('passer-by', Role.READ)}"}
        assert client.get("/v1/health", headers=headers).status_code == 200
        tokens.remove("passer-by")
        problem(client.get("/v1/health", headers=headers), 401)


def test_a_damaged_record_of_tokens_lets_nobody_in(api: Api) -> None:
    """Until it is as it was."""
    good = api.home.tokens.read_bytes()
    with api.client() as client:
        api.home.tokens.write_bytes(good[:-20])
        problem(client.get("/v1/health"), 401)
        api.home.tokens.write_bytes(good)
        assert client.get("/v1/health").status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_a_body_is_refused_while_it_is_read(api: Api, chunked: bool) -> None:
    """By its stated length before a byte was read; in chunks as soon as it is too much."""
    body = json.dumps({**BODY, "text": "x" * 10_000_000}).encode()
    with api.client() as client:
        content = (body[at : at + 65536] for at in range(0, len(body), 65536))
        answer = client.post(
            "/v1/jobs",
            content=content if chunked else body[: 2 << 20],
            headers={"content-type": "application/json"},
        )
    problem(answer, 413)


def test_a_body_below_the_limit_is_a_matter_of_its_content(api: Api) -> None:
    """A long text is refused as a job file, with its allowed size."""
    with api.client() as client:
        told = problem(client.post("/v1/jobs", json={**BODY, "text": "x" * 900_000}), 422)
    assert "262144" in told["detail"]


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"", 408),
        (b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-A: ", 408),
        (b"\r\n", 408),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"HELO there\r\n\r\n", 400),
        (b"GET http://[::1 HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
    ],
    ids=range(9),
)
def test_what_never_becomes_a_request_is_ended_with_a_problem(
    api: Api, start: bytes, status: int
) -> None:
    """Too late, too long, or no HTTP."""
    with Raw(api) as raw:
        assert raw.send(start).answer()[0] == status


def test_a_body_that_trickles_is_given_up(api: Api) -> None:
    """408 after the time that a body may take; the connection is closed."""
    with Raw(api) as raw:
        raw.request("POST /v1/jobs", "Content-Length: 100", body=b"{")
        assert raw.answer()[0] == 408


def test_a_body_without_end_is_cut(api: Api) -> None:
    """After the refusal nobody reads on for ever."""
    with Raw(api) as raw:
        raw.request("POST /v1/jobs", "Transfer-Encoding: chunked")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        with pytest.raises(OSError, match=r"reset|pipe"):
            for _ in range(2000):
                raw.send(chunk)
                time.sleep(0)


def test_more_connections_than_there_is_room_for_are_told(api: Api) -> None:
    """503 in words; once some have gone, others are welcome."""
    with api.client() as client:
        held = [Raw(api) for _ in range(connection.CONNECTIONS)]
        with Raw(api) as raw:
            assert raw.answer()[0] == 503
        for one in held:
            one.__exit__()
        poll(lambda: client.get("/v1/health").status_code == 200, 10.0, "room")


def test_those_who_wait_are_limited_in_number(api: Api) -> None:
    """503 with Retry-After for one too many, and room again when clients leave without a word."""
    job = api.submit()["job"]
    waits = [Raw(api).request(f"GET /v1/jobs/{job}/events/stream") for _ in range(LIMITS.waiting)]
    poll(lambda: api.desk.watchers.count == LIMITS.waiting, 10.0, "two who wait")
    with api.client() as client:
        for path in ("events/stream", "events?after=9&wait=30", "logs?follow=true"):
            answer = client.get(f"/v1/jobs/{job}/{path}")
            problem(answer, 503)
            assert answer.headers["retry-after"]
        for one in waits:
            one.__exit__()
        poll(lambda: api.desk.watchers.count == 0, 10.0, "nobody who waits")
        waiting = Raw(api).request(f"GET /v1/jobs/{job}/status?after=9&wait=60")
        poll(lambda: api.desk.watchers.count == 1, 10.0, "one who waits")
        waiting.__exit__()
        poll(lambda: api.desk.watchers.count == 0, 10.0, "nobody who waits")


def test_requests_under_way_are_limited_in_number(api: Api) -> None:
    """One too many is turned away, with the reason, whatever it asks."""
    raws = [
        Raw(api).request("POST /v1/jobs", "Content-Length: 100", body=b"{")
        for _ in range(LIMITS.requests)
    ]
    with api.client() as client:
        refused = poll(
            lambda: answer if (answer := client.get("/v1/health")).status_code == 503 else None,
            0.9,
            "a refusal",
        )
        problem(refused, 503)
        for one in raws:
            one.__exit__()
        poll(lambda: client.get("/v1/health").status_code == 200, 10.0, "room")


def test_a_client_that_does_not_read_is_given_up(api: Api) -> None:
    """An answer that nobody takes holds neither memory nor a place for long."""
    job = api.submit()["job"]
    log = Path(api.head.job(job).run_dir) / "attempts" / "001" / "logs" / "rank-0.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * 99 + b"\n" + b"y\n" * 4_000_000)
    with Raw(api) as raw:
        raw.request(f"GET /v1/jobs/{job}/logs")
        poll(lambda: api.desk.watchers.count == 1, 10.0, "the stream")
        poll(lambda: api.desk.watchers.count == 0, 20.0, "the end of the stream")
