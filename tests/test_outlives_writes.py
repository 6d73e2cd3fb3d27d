"""The controller killed at every durable write: the job ends well, and nothing is left of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.orders import OrderKind
from tests.runs import poll
from tests.services import ENDED, Driver, forking, worker_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _forking() -> Iterator[None]:
    with forking():
        yield


FAILS = {"steps": 8, "pause": 0.02, "fail": "exit-3@5"}
WRITES = 20
"""Commits of a job with one failure, its submission and its controller's start included."""


def outlive(root: Path, number: int, when: str) -> list[str]:
    """Kill a head at a commit, have another one go on; what is wrong then."""
    root.mkdir()
    file = worker_file(root, args=FAILS)
    head = Driver(root / "h").start(die=(number, when))
    try:
        head.submit(file, "key")
        poll(lambda: not head.lives or set(head.jobs().values()) & set(ENDED), 60, "a death")
        if head.process_died(3.0):
            head.kill()
            head.start()
        head.submit(file, "key")
        [job] = head.jobs()
        poll(lambda: head.state(job) in ENDED, 60, f"the end of {job}")
        head.stop()
        return list(wrong(head, job))
    finally:
        head.kill()
        head.sweep()


def wrong(head: Driver, job: str) -> list[str]:
    """Everything that is not as it must be after the end."""
    found = [] if head.state(job) == "SUCCEEDED" else [f"{head.state(job)}"]
    failures = [event["reason"] for event in head.events(job) if event["kind"] == "failure"]
    if any("exit code 3; class process" not in failure for failure in failures):
        found.append(f"blamed for the controller's death: {failures}")
    if len(head.started(job)) != 1 + len(failures):
        found.append(f"{failures}, but ranks were started in attempts {head.started(job)}")
    try:
        head.check(job)
        head.assert_nothing_left()
    except AssertionError as error:
        found.append(str(error))
    if found:
        found += [f"  {event['kind']} {event['reason']}" for event in head.events(job)]
    return found


def every_write(tmp_path: Path, points: list[tuple[int, str]]) -> None:
    """Four at a time: most of it is waiting."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda point: outlive(tmp_path / f"{point[0]}-{point[1]}", *point), points)
    told = [f"killed {when} commit {n}: " + "\n".join(all_of_it)
            for (n, when), all_of_it in zip(points, found, strict=True) if all_of_it]  # fmt: skip
    assert not told, "\n".join(told)
    shutil.rmtree(tmp_path)


def test_killed_after_any_write_the_job_ends_well(tmp_path: Path) -> None:
    """What is on record has happened or will: no rank twice, no false blame, nothing left."""
    every_write(tmp_path, [(n, "after") for n in range(1, WRITES + 1)])


def test_killed_before_any_write_the_job_ends_well(tmp_path: Path) -> None:
    """What was done on the strength of the write before is found, and not done again."""
    every_write(tmp_path, [(n, "before") for n in range(1, WRITES + 1)])


def test_killed_at_each_write_in_turn_the_job_ends_well(tmp_path: Path) -> None:
    """No controller lives for longer than one event of the job; each goes on where the last was."""
    file = worker_file(tmp_path, args=FAILS)
    head = Driver(tmp_path / "h")
    try:
        head.start()
        job = head.submit(file, "key")
        # Later, an attempt that is on record and was not started would take the failure's place.
        poll(lambda: head.state(job) == "RUNNING", 30, "ranks")
        head.kill()
        deaths, lives_for, seen = 0, 3, ""
        while head.state(job) not in ENDED:
            # Its epoch, its adoption, and then before or after the first thing that it does.
            head.start(die=(lives_for, "before" if deaths % 2 else "after"))
            poll(lambda: not head.lives or head.state(job) in ENDED, 30, f"death {deaths}")
            deaths += not head.lives
            head.kill()
            assert deaths < 200, head.kinds(job)[-20:]
            # What brings up a node is done anew by each: one must live to the end of it.
            now = progress(head, job)
            lives_for, seen = (3, now) if now != seen else (lives_for + 1, now)
        head.start()
        head.stop()
        assert not wrong(head, job)
        assert deaths >= 15
    finally:
        head.kill()
        head.sweep()


def progress(head: Driver, job: str) -> str:
    """The last event that is not repeated by every controller."""
    again = ("controller", "note", "ray_ready", "supervisor_started")
    return next(f"{event}" for event in reversed(head.events(job)) if event["kind"] not in again)


@pytest.mark.parametrize("kind", [OrderKind.CANCEL, OrderKind.HOLD])
@pytest.mark.parametrize("moment", ["supervisor_started", "attempt", "running", "decision"])
def test_an_acknowledged_order_outlives_a_kill(
    tmp_path: Path, kind: OrderKind, moment: str
) -> None:
    """Told that the order is taken, one may rely on it, wherever the job stood."""
    backoff = {"first": 60, "max": 60} if moment == "decision" else {"first": 0, "max": 0}
    fails = {**FAILS, "steps": 500, "fail": "exit-3@1" if moment == "decision" else "exit-3@900"}
    file = worker_file(tmp_path, args=fails, restart={"backoff": backoff})
    head = Driver(tmp_path / "h").start()
    try:
        job = head.submit(file, "key")
        poll(lambda: moment in head.kinds(job), 30, moment)
        said = head.order(job, kind)
        head.kill()
        assert said in ("QUEUED", "STARTING", "RUNNING", "STOPPING", "RECOVERING", "HELD",
                        "CANCELLED"), said  # fmt: skip
        head.start()
        state = {OrderKind.CANCEL: "CANCELLED", OrderKind.HOLD: "HELD"}[kind]
        poll(lambda: head.state(job) == state, 15, state)
        head.stop()
        head.check(job)
        head.assert_nothing_left()
    finally:
        head.kill()
        head.sweep()
