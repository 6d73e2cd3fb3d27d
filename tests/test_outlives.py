"""The service outlives kills of itself, its Ray and its supervisors: cheap ranks, real kills.

`test_outlives_writes` kills at every durable write; `test_outlives_training` a real training.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator import processes
from orchestrator.client import ClientError, Problem
from orchestrator.layout import store_file
from tests.kills import WORDS
from tests.runs import poll
from tests.services import ENDED, Service, service, signal_all, worker_file

pytestmark = pytest.mark.slow

LONG = {"steps": 40000, "pause": 0.03}
READOPTED_WITHIN = 10.0
EXIT_FAILED = 1


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Service]:
    """A service without a Ray."""
    with service(tmp_path / "h", plain=True) as head:
        yield head


def running(head: Service, directory: Path, **fields: Any) -> str:
    """A job whose ranks have begun to step."""
    job = head.submit(worker_file(directory, **fields))
    head.await_state(job, "RUNNING")
    head.await_step(job, 1)
    return job


def finish(head: Service, job: str) -> None:
    """Cancel a job that would go on for long, and wait for its end."""
    with head.client() as client:
        client.cancel(job)
    head.await_state(job, "CANCELLED")
    head.check(job)


def adopted(head: Service, job: str, before: int) -> dict[str, Any]:
    """The event with which the supervisor answers to a controller that is later than `before`."""

    def found() -> dict[str, Any] | None:
        events = head.events(job)
        begun = [e["sequence"] for e in events if e["data"].get("epoch", 0) > before]
        told = [e for e in events if e["kind"] == "supervisor_started"]
        return told[-1] if begun and told and told[-1]["sequence"] > begun[0] else None

    event: dict[str, Any] = poll(found, 30, "an adoption")
    return event


def epoch(head: Service, job: str) -> int:
    """The newest controller that has driven the job."""
    return max(event["data"].get("epoch", 0) for event in head.events(job))


def test_ranks_live_through_ten_controllers(head: Service, tmp_path: Path) -> None:
    """They keep their pids, nothing is charged, and each new controller has them back in time."""
    job = running(head, tmp_path, args=LONG)
    ranks, took = head.ranks(job), []
    for _ in range(10):
        before = epoch(head, job)
        head.kill()
        began = time.time()
        head.start()
        took.append(adopted(head, job, before)["time"] - began)
    assert head.ranks(job) == ranks and head.alive(ranks) == [0, 1]
    assert max(took) < READOPTED_WITHIN
    print("re-adopted after", [round(seconds, 2) for seconds in took])
    with head.client() as client:
        status = client.status(job)
        assert not status["restarts"] and status["state"] == "RUNNING"
        step = status["step"]
    head.await_step(job, step + 5)
    assert head.kinds(job).count("attempt") == 1
    finish(head, job)


def test_a_rank_that_dies_with_its_controller_is_blamed(head: Service, tmp_path: Path) -> None:
    """Nobody saw it, the supervisor's record tells: its class, one restart, and no other."""
    job = running(head, tmp_path, args={"steps": 60, "pause": 0.05})
    os.kill(head.ranks(job)[1], signal.SIGKILL)
    head.kill()
    head.start()
    head.await_state(job, *ENDED)
    with head.client() as client:
        [incident] = client.incidents(job)
    assert (incident["class"], incident["rank"]) == ("process", 1)
    assert head.state(job) == "SUCCEEDED"
    assert head.started(job) == [1, 2]
    head.check(job)


def test_what_finished_without_a_controller_is_not_forgotten(head: Service, tmp_path: Path) -> None:
    """Ranks that end while nobody listens have succeeded, and are not started again."""
    job = running(head, tmp_path, args={"steps": 40, "pause": 0.03})
    ranks = head.ranks(job)
    head.kill()
    poll(lambda: not head.alive(ranks), 60, "their end")
    head.start()
    head.await_state(job, "SUCCEEDED")
    assert head.started(job) == [1]
    head.check(job)


def test_budgets_outlive_the_controller(head: Service, tmp_path: Path) -> None:
    """Two restarts are two restarts, however many controllers there were."""
    # 75 asks to be retried: that it comes again at the same step is no reason to stop before.
    fails = {"steps": 100, "pause": 0.02, "fail": "exit-75@8", "always": "true"}
    restart = {"budgets": {"process": 2}, "backoff": {"first": 0.5, "max": 0.5}, "no_progress": 9}
    job = head.submit(worker_file(tmp_path, args=fails, restart=restart))
    for failures in (1, 2):
        poll(lambda n=failures: head.kinds(job).count("failure") >= n, 60, f"failure {failures}")
        head.kill()
        head.start()
    head.await_state(job, *ENDED)
    assert head.state(job) == "FAILED"
    assert len(head.started(job)) == 3  # one may be on record that was never begun
    head.check(job)


def test_controller_and_supervisor_both_killed(head: Service, tmp_path: Path) -> None:
    """As after a reboot: one attempt is lost, and the job goes on from its checkpoint."""
    job = running(head, tmp_path, args={"steps": 90, "pause": 0.03})
    head.await_step(job, 20)
    head.kill()
    signal_all(head.supervisors(job))
    head.start()
    head.await_state(job, "SUCCEEDED")
    resumed = [e["data"]["resumed_step"] for e in head.events(job) if e["kind"] == "attempt"]
    assert len(resumed) == 2 and resumed[1] >= 18
    with head.client() as client:
        assert [incident["class"] for incident in client.incidents(job)] == ["node"]
    head.check(job)


def test_after_another_boot_nobody_else_is_killed(head: Service, tmp_path: Path) -> None:
    """A pid of the boot before is somebody else's now: it is left alone."""
    job = running(head, tmp_path, args={"steps": 60, "pause": 0.03})
    head.kill()
    signal_all(head.supervisors(job))
    innocent = subprocess.Popen(["sleep", "600"])
    try:
        identity = processes.identify(innocent.pid)
        assert identity is not None
        forged = {"pid": innocent.pid, "start_time": identity.start_time, "boot_id": "another"}
        file = store_file(head.environment)
        with closing(sqlite3.connect(file)) as store, store:
            query = "select sequence, data from events"
            rows = store.execute(f"{query} where kind = 'supervisor_started'").fetchall()
            for sequence, data in rows:
                text = json.dumps({**json.loads(data), **forged})
                store.execute("update events set data = ? where sequence = ?", (text, sequence))
        head.start()
        head.await_state(job, "SUCCEEDED")
        assert innocent.poll() is None
        assert head.started(job) == [1, 2]
    finally:
        innocent.kill()
        innocent.wait()


def test_a_supervisor_that_stands_still_is_replaced(head: Service, tmp_path: Path) -> None:
    """A new controller that it does not answer ends it, and its ranks with it; one attempt."""
    job = running(head, tmp_path, args={"steps": 90, "pause": 0.03})
    ranks = head.ranks(job)
    signal_all(head.supervisors(job), signal.SIGSTOP)
    head.kill()
    head.start()
    head.await_state(job, "SUCCEEDED", timeout=60)
    assert head.started(job) == [1, 2]
    assert not head.alive(ranks)
    head.check(job)


def test_a_supervisor_that_is_asked_to_end_costs_one_attempt(head: Service, tmp_path: Path) -> None:
    """SIGTERM: it takes its spool away, and the next one finds the controller all the same."""
    job = running(head, tmp_path, args={"steps": 60, "pause": 0.03})
    signal_all(head.supervisors(job), signal.SIGTERM)
    head.await_state(job, "SUCCEEDED", timeout=60)
    assert head.started(job) == [1, 2]
    head.check(job)


def test_a_second_controller_is_refused(head: Service) -> None:
    """A sentence that names the first, and exit code 1; the first goes on."""
    second = subprocess.run(
        [sys.executable, "-m", "orchestrator.service"],
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == EXIT_FAILED
    assert "in use by another controller" in second.stderr and "Traceback" not in second.stderr
    assert head.process is not None and str(head.process.pid) in second.stderr
    assert head.answers()


def test_down_may_leave_the_ranks_running(head: Service, tmp_path: Path) -> None:
    """`down --keep-ranks`, then `up`: the same processes, one attempt."""
    job = running(head, tmp_path, args=LONG)
    ranks = head.ranks(job)
    head.stop("--keep-ranks")
    assert head.alive(ranks) == [0, 1]
    head.start()
    adopted(head, job, 1)
    assert head.ranks(job) == ranks and head.kinds(job).count("attempt") == 1
    finish(head, job)


def test_down_stops_and_up_continues(head: Service, tmp_path: Path) -> None:
    """`down`: queued with its checkpoint. `up`: from there, and nothing was charged."""
    job = running(head, tmp_path, args={"steps": 90, "pause": 0.03})
    head.await_step(job, 20)
    ranks = head.ranks(job)
    head.stop()
    assert head.state(job) == "QUEUED"
    assert not head.alive(ranks)
    assert not head.supervisors(job)
    head.start()
    head.await_state(job, "SUCCEEDED")
    with head.client() as client:
        assert not client.incidents(job) and not client.status(job)["restarts"]
    assert [
        e["data"]["resumed_step"] >= 18 for e in head.events(job) if e["kind"] == "attempt"
    ] == [
        False,
        True,
    ]
    head.check(job)


def descriptors(pids: list[int]) -> dict[int, int]:
    """How many files each process has open."""
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}


def restarts(tmp_path: Path, number: int) -> None:
    """Kill and start a loaded controller again and again; nothing grows."""
    with service(tmp_path / "h", plain=True) as head:
        resources = {"device": "cpu", "ranks": 1, "cpus_per_rank": 1}
        first = running(head, tmp_path, name="first", args=LONG, resources=resources)
        file = worker_file(tmp_path, name="more", args={"steps": 3}, resources=resources)
        told: list[str] = []
        stop = threading.Event()
        submitting = threading.Thread(target=_submit, args=(head, file, told, stop))
        submitting.start()
        counted: list[tuple[int, int]] = []
        try:
            for _ in range(number):
                head.kill()
                head.start()
                adopted(head, first, epoch(head, first) - 1)
                assert head.process is not None
                pids = [head.process.pid, *head.supervisors(first)]
                mine, supervisor = descriptors(pids).values()
                counted.append((mine, supervisor))
                taken = len(told)
                poll(lambda n=taken: len(told) > n, 60, "another job")
        finally:
            stop.set()
            submitting.join()
        # One more while it writes a line.
        assert counted[-1][1] <= counted[0][1] + 1, counted
        # Jobs come and go meanwhile, each with a few; a leak would add to every restart.
        assert counted[-1][0] < counted[0][0] + 60, counted
        poll(lambda: head.jobs()[first] == "RUNNING" and ended(head, told), 120, "all others")
        states = head.jobs()
        assert all(states[job] == "SUCCEEDED" for job in told) and len(told) == len(set(told))
        assert len(states) == 1 + len(told)
        for job in told:
            # A kill between the record of an attempt and its first process leaves a number unused.
            assert len(head.started(job)) == 1
            head.check(job)
        poll(lambda: not any(map(head.supervisors, told)), 15, "the end of other supervisors")
        assert len(head.supervisors(first)) == 1
        print(f"{number} restarts, {len(told)} jobs, descriptors {counted[0]} … {counted[-1]}")
        finish(head, first)


def ended(head: Service, jobs: list[str]) -> bool:
    """Whether all of these jobs have ended."""
    states = head.jobs()
    return all(states[job] in ENDED for job in jobs)


def _submit(head: Service, file: Path, told: list[str], stop: threading.Event) -> None:
    """Submit now and then, until told to stop; every answer is kept."""
    number = 0
    while not stop.wait(0.4):
        try:
            told.append(head.submit(file, key=f"key-{number}", patience=0.5))
        except ClientError:
            continue  # the same key again
        number += 1


def test_ten_restarts_under_load_leak_nothing(tmp_path: Path) -> None:
    """No process, no descriptor, no lock, no job."""
    restarts(tmp_path, 10)


@pytest.mark.soak
def test_a_hundred_restarts_under_load_leak_nothing(tmp_path: Path) -> None:
    """The same, often enough for a small leak to show."""
    restarts(tmp_path, 100)


def test_ray_may_die_in_every_part_and_the_controller_too(tmp_path: Path) -> None:
    """With a real Ray: ranks keep their pids, and Ray comes back by itself."""
    with service(tmp_path / "h") as head:
        job = running(head, tmp_path, args=LONG)
        ranks = head.ranks(job)
        for word in ("raylet", "gcs_server", "driver", "keeper"):
            poll(lambda: is_up(head), 90, "Ray")
            assert signal_all(head.processes(WORDS[word])[:1]), word
            poll(lambda: not is_up(head), 30, f"the loss of {word}")
        before = epoch(head, job)
        head.kill()
        began = time.time()
        head.start()
        assert adopted(head, job, before)["time"] - began < READOPTED_WITHIN
        assert head.ranks(job) == ranks and head.alive(ranks) == [0, 1]
        finish(head, job)


def is_up(head: Service) -> bool:
    """Whether Ray is there."""
    with head.client() as client:
        state: str = client.health()["ray"]["state"]
    return state == "up"


def test_a_full_disk_stops_intake_and_no_rank(tmp_path: Path) -> None:
    """503 and a sentence; running ranks go on, health tells, and all goes on with room."""
    home = tmp_path / "h"
    (home / "store").mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    head = Service(home, plain=True)
    # A file system of its own, in a mount namespace of its own: nobody else sees it.
    script = 'mount -t tmpfs -o size=32m,mode=700 none "$1" && shift && exec "$@"'
    head.before("unshare", "-rm", "sh", "-c", script, "sh", str(home / "store"))
    try:
        head.start()
        assert head.process is not None
        store = Path(f"/proc/{head.process.pid}/root{home}/store")
        file = worker_file(tmp_path, args={"steps": 6000, "pause": 0.02})
        job = head.submit(file)
        head.await_step(job, 5)
        fill(store, 8 << 20)
        with head.client() as client, pytest.raises(Problem) as refused:
            client.submit(file.read_text(), cwd=tmp_path)
        assert refused.value.status == 503
        done = head.muster("submit", file)
        assert done.code == EXIT_FAILED and "MiB free" in done.err, done.text
        fill(store, 0)
        with head.client() as client:
            poll(lambda: client.health()["stalled"].get(job), 60, "a word in health")
            stalled = client.health()["stalled"][job]
            assert "no room" in stalled
        at = beats(head, job)
        poll(lambda: beats(head, job) > at + 20, 30, "steps without a record")
        (store / "filler").unlink()
        with head.client() as client:
            poll(lambda: not client.health()["stalled"], 30, "recording")
            other = client.submit(file.read_text(), cwd=tmp_path)["job"]
            for one in (other, job):
                client.cancel(one)
                assert client.wait(one, timeout=60)["state"] == "CANCELLED"
            events = list(client.events(job))
            assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
            assert not client.incidents(job)
        head.stop()
    finally:
        head.kill()
        head.sweep()


def fill(directory: Path, leave: int) -> None:
    """Leave so many bytes free."""
    with open(directory / "filler", "ab") as file:
        while (free := os.statvfs(directory).f_bavail * 4096) > leave:
            try:
                file.write(bytes(min(1 << 16, free - leave)))
                file.flush()
            except OSError:
                return


def beats(head: Service, job: str) -> int:
    """The newest step that a rank has left a mark of."""
    folder = head.run(job).attempt(1).root
    return sum(1 for _ in folder.glob("at-0-*"))
