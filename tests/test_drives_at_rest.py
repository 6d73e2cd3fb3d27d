"""Drives wait for messages, orders and moments, and for nothing else."""

from __future__ import annotations

import math
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator import processes
from orchestrator.bell import Bell
from orchestrator.heartbeat import PHASES, Heartbeat
from orchestrator.layout import Home, Spool, store_file
from orchestrator.link import Message
from orchestrator.orders import OrderKind
from orchestrator.service import drive
from orchestrator.service.head import Head
from orchestrator.store import Store
from orchestrator.uplink import Uplink
from tests.benchmarks.running_jobs import Running, prepare, started
from tests.runs import poll

PATIENCE = 60.0


class NoRay:
    """A Ray that is asked for nothing here."""

    address = None
    state: Mapping[str, Any] = {"state": "up"}
    ended = False

    def __init__(self) -> None:
        self._bell = Bell()

    def start(self, *_: object, **__: object) -> None: ...

    def for_job(self, job: str) -> NoRay:
        return NoRay()

    def fileno(self) -> int:
        return self._bell.fileno()

    def hold(self, *_: object, **__: object) -> None: ...

    def messages(self, **_: object) -> list[Message]:
        return []

    def raylets(self) -> tuple[int, ...]:
        return ()

    def close(self) -> None: ...


class Supervisor:
    """The supervisor of a prepared job; obeys as a real one does."""

    def __init__(self, running: Running, process: subprocess.Popen[bytes]) -> None:
        me = processes.identify(process.pid)
        assert me is not None
        self.job = running.job
        self.heard: list[Message] = []
        self._process = process
        hello = {"event": "hello", **asdict(me), "started_attempt": 1}
        self._uplink = Uplink(running.spool.socket, lambda: hello)
        self._uplink.keep(started(running, asdict(me)))

    def come(self) -> None:
        """Dial until somebody listens."""
        poll(self._uplink.redial, PATIENCE, "a controller")

    def look(self, at: float | None = None) -> None:
        """Tell that both ranks train, and have just made a step."""
        now = time.monotonic()
        seen = [{"event": "beat", "attempt": 1, "rank": r, "beat": beat(now)} for r in range(2)]
        self._uplink.say({"event": "look", "attempt": 1, "at": at or now, "seen": seen})

    def hears(self, what: str) -> Message:
        """The next order of that kind, obeyed."""

        def listen() -> Message | None:
            for message in self._uplink.receive():
                self.heard.append(message)
                self._obey(message["do"])
            return next((m for m in self.heard if m["do"] == what), None)

        found = poll(listen, PATIENCE, f"the order {what!r}")
        self.heard.clear()
        return found

    def _obey(self, what: str) -> None:
        if what == "stop":
            now = time.monotonic()
            self._uplink.say({"event": "stopped", "attempt": 1, "at": now, "stuck": []})
        elif what == "leave":
            self._process.kill()
            self._process.wait()


def beat(now: float) -> dict[str, Any]:
    """A heartbeat of a rank that trains."""
    return asdict(
        Heartbeat(
            sequence=int(now * 1e6),
            phase="train",
            step=7,
            steps_total=100,
            first_step=1,
            images=28,
            checkpoint_step=-1,
            beat_at=now,
            step_at=now,
            step_seconds=0.1,
            loss=1.0,
            first_step_at=now - 1.0,
            phase_at=now - 2.0,
            phase_entered=(*[now - 3.0] * 4, now - 2.0, *[math.nan] * (len(PHASES) - 5)),
            done=False,
            failed=False,
        )
    )


Scene = Callable[..., tuple[Head, list[Supervisor]]]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A head that has adopted running jobs of two ranks, and drives that rest for an hour."""
    environment = {"MUSTER_HOME": str(tmp_path / "home")}
    children: list[subprocess.Popen[bytes]] = []
    heads: list[tuple[Head, Store]] = []
    spools: list[Spool] = []
    monkeypatch.setattr(drive, "_REST", 3600.0)

    def make(count: int, *overrides: str) -> tuple[Head, list[Supervisor]]:
        children.append(subprocess.Popen(["sleep", "600"]))
        me = processes.identify(children[-1].pid)
        assert me is not None
        ranks = ("resources.ranks=2", *overrides)
        jobs = prepare(environment, count, asdict(me), *ranks)
        spools.extend(job.spool for job in jobs)
        store = Store.open(store_file(environment))
        head = Head(store, Home.of(environment).runs, environment, NoRay())
        heads.append((head, store))
        head.begin()
        supervisors = [Supervisor(job, children[-1]) for job in jobs]
        for one in supervisors:
            one.come()
            one.hears("welcome")
            one.look()
        for one in supervisors:
            poll(lambda job=one.job: ages(head, job), PATIENCE, "its heartbeats")
        return head, supervisors

    yield make
    for head, store in heads:
        head.close(keep_ranks=True)
        store.close()
    for child in children:
        child.kill()
        child.wait()
    for spool in spools:
        spool.remove()


def ages(head: Head, job: str) -> bool:
    """Whether the head shows heartbeats of all ranks of a job."""
    status = head.status(job)
    return bool(status["ranks"]) and all(r["heartbeat_age"] is not None for r in status["ranks"])


def readable(bell: Bell) -> bool:
    """Whether somebody has rung."""
    return bool(select.select([bell], [], [], 0)[0])


def test_a_bell_is_readable_from_a_ring_until_it_is_answered() -> None:
    """However often it was rung; a ring after its end does nothing."""
    bell = Bell()
    assert not readable(bell)
    bell.ring()
    bell.ring()
    assert readable(bell)
    bell.answer()
    assert not readable(bell)
    bell.close()
    bell.ring()
    bell.close()


def test_a_hang_is_seen_by_the_look_that_shows_it(scene: Scene) -> None:
    """The supervisor's clock decides, when its word comes, not the controller's next glance."""
    _, [supervisor] = scene(1, "health.heartbeat_timeout=60s")
    supervisor.look(at=time.monotonic() + 61.0)
    assert supervisor.hears("stop")["attempt"] == 1


def test_an_order_wakes_a_drive(scene: Scene) -> None:
    """It is carried out though no message comes."""
    head, [supervisor] = scene(1)
    ordered = threading.Thread(target=head.order, args=(supervisor.job, OrderKind.CANCEL, "ann"))
    ordered.start()
    supervisor.hears("stop")
    supervisor.hears("leave")
    ordered.join()
    poll(lambda: head.job(supervisor.job).state.terminal, PATIENCE, "its end")


def test_a_run_limit_ends_a_rest(scene: Scene) -> None:
    """`limits.run` is over when it is over."""
    head, [supervisor] = scene(1, "limits.run=5s")
    supervisor.hears("stop")
    supervisor.hears("leave")
    poll(lambda: head.job(supervisor.job).state.terminal, PATIENCE, "its end")


def test_a_supervisor_is_told_when_the_pace_has_changed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its next look, once."""
    head, supervisors = scene(2)
    pace = head._pace()
    assert 0 < pace < 0.1
    monkeypatch.setattr("orchestrator.service.head._LOOKS_PER_SECOND", 2.0)
    for supervisor in supervisors:
        supervisor.look()
        assert supervisor.hears("welcome")["pace"] == 1.0
