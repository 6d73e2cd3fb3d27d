"""The API for tests: a real server with real sockets in this process, whose jobs nobody drives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from orchestrator.api.desk import Desk, Ending, Limits
from orchestrator.layout import Home, store_file
from orchestrator.service.head import Head
from orchestrator.service.serve import Server, configuration, listening
from orchestrator.service.tokens import Doorkeeper, Role, Tokens
from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store.values import happened
from tests.runs import poll

TEXT = """version: 1
name: small
module: train
workdir: /
resources: {device: cpu, ranks: 2}
"""
BODY = {"text": TEXT, "cwd": "/"}
PROBLEM = "application/problem+json"


@dataclass
class Api:
    """A served head. `tokens` has a token's text by its role; `endings` what `down` asked for."""

    url: str
    home: Home
    head: Head
    desk: Desk
    tokens: dict[Role, str]
    endings: list[Ending] = field(default_factory=list)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's loop."""
        return self.desk.watchers._loop

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, role: Role | None = Role.ADMIN, **options: Any) -> httpx.Client:
        """A client with the token of a role, or with none."""
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30.0, **options)

    def submit(self, role: Role = Role.ADMIN, **headers: str) -> dict[str, Any]:
        """A new job of two CPU ranks."""
        with self.client(role) as client:
            answer = client.post("/v1/jobs", json=BODY, headers=headers)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def move(self, job: str, *states: JobState, attempt: int = 1, **data: Any) -> None:
        """Have a job go through these states, as a controller would."""
        for state in states:
            seen = self.head.job(job).state
            event = happened("moved", f"now {state.value}", attempt=attempt, state=state, **data)
            told = self.head.store.transition(job, event, seen=seen, epoch=self.head.epoch)
            self.head.news.tell(job, told.sequence)


@contextmanager
def served(directory: Path, limits: Limits | None = None) -> Iterator[Api]:
    """A head in a home of its own, with a token for each role, served until the block ends."""
    environment = {"MUSTER_HOME": str(directory), "PATH": "/usr/bin:/bin"}
    home = Home.of(environment)
    home.root.mkdir(exist_ok=True)
    tokens = Tokens(home)
    tokens.begin()
    texts = {Role.ADMIN: home.token.read_text().strip()}
    with contextlib.suppress(ValueError):
        texts |= {role: tokens.add(role.value, role) for role in (Role.READ, Role.SUBMIT)}
    with Store.open(store_file(environment)) as store, listening("127.0.0.1", 0) as listener:
        head = Head(store, home.runs, environment)
        endings: list[Ending] = []
        desk = Desk(head, end=endings.append, warnings=("mind the gap",), limits=limits)
        server = Server(configuration(desk, Doorkeeper(home)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            poll(lambda: server.started, 10.0, "the server")
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield Api(url, home, head, desk, texts, endings)
        finally:
            server.should_exit = True
            thread.join()
            desk.close()


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of a refusal."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == PROBLEM
    document: dict[str, Any] = answer.json()
    assert document["status"] == status and document["title"] and document["detail"]
    assert "Traceback" not in answer.text
    return document


def lines(text: str) -> list[Any]:
    """The documents of a stream of JSON lines."""
    return [json.loads(line) for line in text.splitlines()]
