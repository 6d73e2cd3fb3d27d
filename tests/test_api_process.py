"""The process of a head: how it starts and ends, and what survives its being killed."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from orchestrator.layout import Home, read_json
from orchestrator.processes import Identity
from orchestrator.service.serve import main
from tests.apis import BODY, problem
from tests.heads import ROOT, ScriptedHead
from tests.runs import SCRIPTS, poll

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, str(SCRIPTS / "scripted_head.py")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedHead]:
    """A controller process for all tests, those included that end it."""
    made = ScriptedHead(tmp_path_factory.mktemp("scripted") / "home")
    yield made
    made.kill()


@pytest.fixture
def head(shared: ScriptedHead) -> ScriptedHead:
    """The controller, alive; it drives nothing."""
    if shared.lives and not shared.home.address.exists():
        shared.kill()  # an earlier test has ended it: nothing of it is left but a zombie
    return shared if shared.lives else shared.start()


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Call it to have a controller refuse to start in a home; what it says."""
    mask = os.umask(0o022)

    def refused(home: Path, *arguments: str) -> str:
        assert main(arguments, {"MUSTER_HOME": str(home)}) == 1
        return capsys.readouterr().err

    yield refused
    os.umask(mask)


def address(home: Home) -> dict[str, object]:
    """What head.json says; empty without one."""
    return read_json(home.address) or {}


def client_of(home: Home) -> httpx.Client:
    """A plain client with the owner's token."""
    headers = {"Authorization": f"Bearer {home.token.read_text().strip()}"}
    return httpx.Client(base_url=str(address(home)["url"]), headers=headers, timeout=30.0)


def identity(home: Home) -> Identity:
    """Which process answers."""
    known = address(home)
    return Identity(int(str(known["pid"])), int(str(known["start_time"])), str(known["boot_id"]))


def test_what_is_secret_is_readable_to_its_owner_only(head: ScriptedHead) -> None:
    """The home, its token, the digests and the store, whatever the umask was."""
    for path in (head.home.root, *head.home.root.rglob("*")):
        if path != head.home.log:  # made by whoever started it
            assert path == head.home.root or not path.stat().st_mode & 0o077, path


def test_there_is_one_controller_at_a_time(head: ScriptedHead, refused: Callable[..., str]) -> None:
    """Another one ends with a sentence that names the first, which does not notice."""
    assert f"process {identity(head.home).pid}" in refused(head.home.root)
    with client_of(head.home) as client:
        assert client.get("/v1/health").status_code == 200


def test_what_keeps_it_from_starting_is_told(
    head: ScriptedHead, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """A taken port, tokens that are open to others, no directory for runs: each by name."""
    port = str(address(head.home)["url"]).rpartition(":")[2]
    told = refused(tmp_path / "other", "--port", port)
    assert port in told and "--port" in told
    assert "--host" in refused(tmp_path / "other", "--host", "no.such.host.invalid")
    Home(tmp_path / "other").tokens.chmod(0o644)
    assert "chmod 600" in refused(tmp_path / "other")
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "runs").write_text("a file")
    assert "MUSTER_HOME" in refused(tmp_path / "third")


def test_what_fails_leaves_nothing_in_memory(head: ScriptedHead) -> None:
    """Thousands of refusals, lists and polls: the process is as large as after the first ones."""
    process = psutil.Process(identity(head.home).pid)
    hostile = [
        {**BODY, "text": "x: [" * 200},
        {**BODY, "text": "a: " + "y" * 200_000},
        {**BODY, "overrides": ["name=../../x"] * 50},
        {"text": 1},
    ]

    def burden(client: httpx.Client, rounds: int) -> None:
        for number in range(rounds):
            problem(client.post("/v1/jobs", json=hostile[number % len(hostile)]), 422)
            problem(client.get(f"/v1/jobs/nobody-{number:06x}/status"), 404)
            client.get("/v1/jobs?limit=100")
            client.get(f"/v1/jobs/{job}/events?after=1&wait=0.001")
            client.get(f"/v1/jobs/{job}/logs")

    job = head.submit()
    with client_of(head.home) as client:
        burden(client, 40)
        small, open_before = process.memory_info().rss, process.num_fds()
        burden(client, 120)
        assert process.memory_info().rss - small < 6 << 20
        assert process.num_fds() <= open_before + 8


def test_it_says_where_it_answers_while_it_does(head: ScriptedHead) -> None:
    """head.json is its owner's alone, names this very process, and goes with it."""
    assert stat.S_IMODE(head.home.address.stat().st_mode) == 0o600
    assert identity(head.home).alive()
    with client_of(head.home) as client:
        assert client.get("/v1/health").status_code == 200
    os.kill(identity(head.home).pid, signal.SIGTERM)
    poll(lambda: not head.home.address.exists(), 20.0, "the end")
    assert head.home.token.exists()


def test_an_ordered_end_is_the_same(head: ScriptedHead) -> None:
    """`down` is answered, new jobs are refused or the connection is, and the process goes."""
    before = identity(head.home)
    with client_of(head.home) as client:
        assert client.post("/v1/down", json={}).status_code == 202
    poll(lambda: not before.alive(), 20.0, "the end")
    assert not head.home.address.exists()


def test_no_acknowledged_job_is_lost_and_none_made_twice(head: ScriptedHead) -> None:
    """The server is killed at seeded moments between and within requests; retries find the rest."""
    chance = random.Random(20)
    body = {**BODY, "overrides": ["name=promised"]}
    promised: dict[str, str] = {}
    asked: set[str] = set()

    def submit(worker: int, stop: threading.Event, turn: int) -> None:
        with client_of(head.home) as client:
            for number in range(10_000):
                if stop.is_set():
                    return
                key = f"{turn}-{worker}-{number}"
                asked.add(key)
                try:
                    answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
                except httpx.TransportError:
                    return
                assert answer.status_code == 201, answer.text
                promised[key] = answer.json()["job"]

    for turn in range(4):
        stop, begun = threading.Event(), len(promised)
        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(submit, worker, stop, turn) for worker in range(4)]
            poll(lambda begun=begun: len(promised) > begun, 20.0, "an acknowledged job")
            time.sleep(chance.uniform(0.0, 0.3))
            head.kill()
            stop.set()
            for worker in workers:
                worker.result(20.0)
        head.start()
    with client_of(head.home) as client:
        for key in sorted(asked):
            answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
            job = answer.json()["job"]
            assert promised.setdefault(key, job) == job
        query = {"limit": 10_000, "name": "promised"}
        listed = client.get("/v1/jobs", params=query).json()["jobs"]
    assert sorted(row["job"] for row in listed) == sorted(promised.values())


def test_a_job_is_on_disk_before_its_answer_is_sent(tmp_path: Path) -> None:
    """Seen by the system calls themselves: request read, log synced, answer written."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed: a kill alone cannot show a missing fsync")
    home, trace = Home(tmp_path / "home"), tmp_path / "trace"
    calls = "trace=read,recvfrom,write,writev,sendto,sendmsg,fsync,fdatasync"
    command = ["strace", "-f", "-y", "-s", "64", "-e", calls, "-o", str(trace), *COMMAND]
    environment = {**os.environ, "MUSTER_HOME": str(home.root), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as traced:
        try:
            poll(lambda: address(home) or traced.poll() is not None, 120.0, "a controller")
            if traced.poll() is not None:
                pytest.skip("strace may not trace here")
            with client_of(home) as client:
                assert client.post("/v1/jobs", json=BODY).status_code == 201
        finally:
            if address(home):
                os.kill(identity(home).pid, signal.SIGKILL)
            traced.kill()
    lines = trace.read_text(errors="replace").splitlines()

    def first(pattern: str, begin: int = 0) -> int:
        return next(n for n in range(begin, len(lines)) if re.search(pattern, lines[n]))

    asked = first(r"(read|recvfrom)\(.*POST /v1/jobs")
    answered = first(r"(write|writev|sendto|sendmsg)\(.*HTTP/1\.1 201", asked)
    between = lines[asked:answered]
    # A call that others interrupt is finished on a line of its own.
    begun = [
        n for n, line in enumerate(between) if re.search(r"f(data)?sync\(.*muster\.db-wal", line)
    ]
    assert begun, "nothing was synced between the request and its answer"
    thread = between[begun[-1]].split()[0]
    ends = rf"^{thread} .*f(data)?sync.*\) *= 0"
    assert any(re.search(ends, line) for line in between[begun[-1] :])
