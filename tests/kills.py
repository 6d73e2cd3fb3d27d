"""Kills at seeded random moments of a job that a service drives, told so that they can be replayed.

| what | dies of -9 |
|---|---|
| controller | the service; another is started up to a second later |
| raylet, gcs_server | Ray's own |
| keeper, driver | what keeps Ray up for the service, and the one process connected to it |
| supervisor | what owns the ranks: they die with it, and an attempt is lost |

What of Ray is not there for long, because it comes up again, leaves its kill to the controller.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace

from tests.services import ENDED, Service, signal_all

WORDS = {
    "raylet": "raylet/raylet",
    "gcs_server": "gcs/gcs_server",
    "keeper": "cluster.ray_node",
    "driver": "--driver",
}
AWAITED = 8.0
OFTEN = {"controller": 12, "raylet": 4, "gcs_server": 3, "keeper": 2, "driver": 2, "supervisor": 1}


@dataclass(frozen=True)
class Kill:
    """`after` seconds from the last one, `what` dies; `pause` is what a new controller waits."""

    after: float
    what: str
    pause: float


def kills(seed: int, number: int, *, longest: float, supervisors: int) -> list[Kill]:
    """The same for the same seed; at most `supervisors` of them cost an attempt."""
    draw = random.Random(seed)
    drawn = [
        Kill(
            draw.uniform(0.05, longest),
            draw.choices(list(OFTEN), list(OFTEN.values()))[0],
            draw.choice([0.0, draw.uniform(0.0, 1.0)]),
        )
        for _ in range(number)
    ]
    costly = [index for index, kill in enumerate(drawn) if kill.what == "supervisor"]
    for index in costly[supervisors:]:
        drawn[index] = Kill(drawn[index].after, "controller", drawn[index].pause)
    return drawn


def carry_out(head: Service, job: str, plan: list[Kill], deadline: float) -> list[str]:
    """Kill as planned, from when its ranks run until the job has ended; what was done, and when."""
    head.await_state(job, "RUNNING", timeout=120.0)
    began, told, todo = time.monotonic(), [], list(plan)
    due = began + todo[0].after if todo else 0.0
    while head.state(job) not in ENDED:
        now = time.monotonic()
        assert now - began < deadline, f"{job} is {head.state(job)} after {deadline:g} s: {told}"
        if todo and now >= due:
            kill = todo[0]
            if kill.what in WORDS and now > due + AWAITED:
                kill = replace(kill, what="controller")
            if _kill(head, job, kill):
                told.append(f"{now - began:.2f} {kill.what} ({head.state(job)})")
                todo.pop(0)
                due = time.monotonic() + (todo[0].after if todo else 0.0)
        assert head.process is None or head.process.poll() is None, "the controller ended by itself"
        time.sleep(0.01)
    return told


def _kill(head: Service, job: str, kill: Kill) -> bool:
    """Whether there was anything to kill; Ray and the supervisor may be about to come back."""
    if kill.what == "controller":
        head.kill()
        time.sleep(kill.pause)
        head.begin()
        return True
    if kill.what == "supervisor":
        return signal_all(head.supervisors(job)) > 0
    found = head.processes(WORDS[kill.what])
    if kill.what == "keeper":
        found = [pid for pid in found if pid not in head.processes(WORDS["driver"])]
    return signal_all(found[:1]) > 0
