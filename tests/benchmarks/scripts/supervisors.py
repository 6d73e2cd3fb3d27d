"""Supervisors of ranks that do not exist, for the benchmark `heartbeats_10k`.

`supervisors.py JOBS` makes JOBS running jobs in MUSTER_HOME and speaks for the supervisor of each
with whatever controller comes: hello, what was told before, then a look at the pace that it asks
for. Every rank makes a step every 0.25 s. A JSON line a second says how it goes.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import resource
import selectors
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from orchestrator import processes
from orchestrator.heartbeat import PHASES, Heartbeat
from orchestrator.link import Message
from orchestrator.uplink import Uplink
from tests.benchmarks.running_jobs import Running, prepare, started

_STEP = 0.25
_TICK = 0.1
_DRAW = random.Random(7)


class Rank:
    """One rank that trains, by the clock."""

    def __init__(self, number: int, now: float) -> None:
        self._number = number
        self._phase = _DRAW.random() * _STEP
        self._began = now - 60.0
        entered = tuple(self._began + i if i < 5 else float("nan") for i in range(len(PHASES)))
        self._beat = asdict(
            Heartbeat(
                sequence=0,
                phase="train",
                step=0,
                steps_total=100_000,
                first_step=1,
                images=0,
                checkpoint_step=-1,
                beat_at=now,
                step_at=now,
                step_seconds=_STEP,
                loss=1.0,
                first_step_at=self._began + 5.0,
                phase_at=self._began + 4.0,
                phase_entered=entered,
                done=False,
                failed=False,
            )
        )

    def beat(self, now: float) -> Message:
        """Its newest heartbeat: that of the last step that it has finished."""
        step = int((now - self._began - self._phase) / _STEP)
        at = self._began + self._phase + step * _STEP
        beat = {
            **self._beat,
            "sequence": step,
            "step": step,
            "images": 4 * step,
            "beat_at": at,
            "step_at": at,
            "step_seconds": _STEP + _DRAW.random() / 1000,
            "loss": 10.0 / step + _DRAW.random() / 100,
        }
        return {"event": "beat", "attempt": 1, "rank": self._number, "beat": beat}


class Supervisor:
    """One job's supervisor."""

    def __init__(self, running: Running, who: Mapping[str, Any], now: float) -> None:
        hello = {"event": "hello", **who, "started_attempt": 1}
        self.uplink = Uplink(running.spool.socket, lambda: hello)
        self.uplink.keep(started(running, who))
        self.pace = _TICK
        self.welcomed = False
        self._ranks = [Rank(number, now) for number in range(running.ranks)]

    def look(self, now: float) -> Message:
        """All heartbeats; the log of rank 0 has grown since the last look."""
        seen = [rank.beat(now) for rank in self._ranks]
        signs = {"event": "signs", "attempt": 1, "rank": 0, "process_state": "", "log_at": now}
        return {"event": "look", "attempt": 1, "at": now, "seen": [*seen, signs]}

    def obey(self, messages: list[Message]) -> None:
        for message in messages:
            if message["do"] == "welcome":
                self.pace = max(_TICK, message["pace"])
                self.welcomed = True


class Simulator:
    """All supervisors, in one thread."""

    def __init__(self, supervisors: list[Supervisor]) -> None:
        self._all = supervisors
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int]] = []
        self._scheduled: set[int] = set()
        self._looks = self._left_out = 0
        self._late = 0.0
        self._all_welcomed_at: float | None = None

    def run(self) -> None:
        told = dial = 0.0
        while True:
            now = time.monotonic()
            for key, _ in self._selector.select(max(0.0, self._next() - now)):
                self._listen(key.data, key.fd)
            now = time.monotonic()
            if now >= dial:
                self._dial()
                dial = now + _TICK
            for number in self._ready(now):
                self._look(number)
            if now >= told + 1.0:
                told = now
                self._tell(now)

    def _next(self) -> float:
        soon = time.monotonic() + _TICK
        return min(soon, self._due[0][0]) if self._due else soon

    def _ready(self, now: float) -> Iterator[int]:
        while self._due and self._due[0][0] <= now:
            at, number = heapq.heappop(self._due)
            self._late = max(self._late, now - at)
            yield number

    def _look(self, number: int) -> None:
        one, now = self._all[number], time.monotonic()
        self._scheduled.discard(number)
        if not one.uplink.up:
            return
        if one.uplink.behind:
            self._left_out += 1
        else:
            one.uplink.say(one.look(now))
            self._looks += 1
        one.uplink.flush()
        self._schedule(number, now + one.pace)

    def _schedule(self, number: int, at: float) -> None:
        if number not in self._scheduled:
            self._scheduled.add(number)
            heapq.heappush(self._due, (at, number))

    def _dial(self) -> None:
        for number, one in enumerate(self._all):
            if not one.uplink.up and one.uplink.redial():
                self._selector.register(one.uplink, selectors.EVENT_READ, number)
                self._schedule(number, time.monotonic())

    def _listen(self, number: int, descriptor: int) -> None:
        one = self._all[number]
        one.obey(one.uplink.receive())
        if one.uplink.up:
            if self._all_welcomed_at is None and all(o.welcomed for o in self._all):
                self._all_welcomed_at = time.monotonic()
            return
        self._selector.unregister(descriptor)
        one.welcomed = False
        self._all_welcomed_at = None

    def _tell(self, now: float) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        line = {
            "at": now,
            "welcomed": sum(one.welcomed for one in self._all),
            "all_welcomed_at": self._all_welcomed_at,
            "pace": max(one.pace for one in self._all),
            "looks": self._looks,
            "left_out": self._left_out,
            "late": self._late,
            "cpu": used.ru_utime + used.ru_stime,
        }
        self._late = 0.0
        print(json.dumps(line), flush=True)


def main() -> None:
    """Prepare, then speak until told to end."""
    me = processes.identify(os.getpid())
    assert me is not None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    jobs = prepare(os.environ, int(sys.argv[1]), asdict(me))
    try:
        made = partial(Supervisor, who=asdict(me), now=time.monotonic())
        print(json.dumps({"jobs": [job.job for job in jobs]}), flush=True)
        Simulator([made(job) for job in jobs]).run()
    finally:
        for job in jobs:
            job.spool.remove()


if __name__ == "__main__":
    main()
