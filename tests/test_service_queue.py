"""The queue of a real head at work: who starts, gives way, waits no longer, and what follows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.layout import read_json
from tests.runs import poll
from tests.services import Service, service, worker_file

LONG: dict[str, Any] = {"args": {"steps": 100000, "pause": 0.01}}
SHORT: dict[str, Any] = {"args": {"steps": 5, "pause": 0.0}}
QUEUES = {"queues": {"small": {"quota": {"cpu": 1}}, "night": {"priority_max": 20}}}


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Service]:
    """A head of this test's own."""
    (tmp_path / "home").mkdir(mode=0o700, exist_ok=True)
    with service(tmp_path / "home", plain=True) as running:
        yield running


def reason(head: Service, job: str) -> str:
    """Why a job is where it is."""
    with head.client() as client:
        return str(client.job(job)["reason"])


def test_a_higher_priority_gets_the_devices_and_gives_them_back(
    head: Service, tmp_path: Path
) -> None:
    """The lower one saves itself first, loses no step, is first in line, and goes on."""
    low = head.submit(
        worker_file(tmp_path, "low", **LONG, checkpoint={"every_steps": 100000}),
        "queue.priority=10",
    )
    head.await_step(low, 20)
    high = head.submit(worker_file(tmp_path, "high", **SHORT), "queue.priority=90")
    head.await_state(high, "SUCCEEDED")
    head.await_state(low, "RUNNING")
    events = head.events(low)
    [stopping] = [event for event in events if event["kind"] == "stopping"]
    assert high in stopping["reason"]
    ended = next(event for event in events if event["kind"] == "attempt_ended")
    begun = [event for event in events if event["kind"] == "attempt"][-1]
    assert begun["data"]["resumed_step"] == ended["data"]["last_step"] >= 20
    with head.client() as client:
        assert client.status(low)["restarts"] == {"preemption": 1}
        client.cancel(low)
    head.await_state(low, "CANCELLED")


def test_a_job_that_may_not_be_preempted_again_is_left_alone(head: Service, tmp_path: Path) -> None:
    """Its budget for preemption is used up, so the higher priority waits, and is told why."""
    low = head.submit(worker_file(tmp_path, "low", **LONG), "restart.budgets.preemption=0")
    head.await_step(low, 5)
    high = head.submit(worker_file(tmp_path, "high", **SHORT), "queue.priority=90")
    poll(lambda: "CPU" in reason(head, high), 30, "a reason that names what is missing")
    assert head.state(low) == "RUNNING"
    with head.client() as client:
        assert client.job(high)["position"] == 1
        client.cancel(low)
    head.await_state(high, "SUCCEEDED")


def test_limits(head: Service, tmp_path: Path) -> None:
    """`limits.run` ends a run that has saved itself, `limits.wait` a wait; both say so."""
    runs = head.submit(worker_file(tmp_path, "runs", **LONG), "limits.run=4s")
    head.await_step(runs, 5)
    waits = head.submit(worker_file(tmp_path, "waits", **SHORT), "limits.wait=1s")
    head.await_state(waits, "FAILED")
    assert "limits.wait is over" in reason(head, waits)
    assert not head.run(waits).root.exists()
    head.await_state(runs, "FAILED")
    assert "limits.run is over" in reason(head, runs)
    assert [event["kind"] for event in head.events(runs)][-1] == "overrun"
    step = next(e for e in head.events(runs) if e["kind"] == "attempt_ended")["data"]["last_step"]
    assert (head.run(runs).checkpoints / f"step-{step:08d}").is_dir()


def test_what_follows_a_success(head: Service, tmp_path: Path) -> None:
    """Its follow-up is one more job, made with the success, which starts where that has ended."""
    tell = ["/bin/sh", "-c", "echo $MUSTER_RESUME_FROM"]
    first = head.submit(worker_file(tmp_path, "first", **SHORT, then={"command": tell}))
    head.await_state(first, "SUCCEEDED")
    poll(lambda: list(head.jobs().values()) == ["SUCCEEDED"] * 2, 60, "the follow-up")
    [second] = set(head.jobs()) - {first}
    assert second.startswith("first-then-")
    log = head.run(second).attempt(1).log(0).read_text()
    assert log.strip() == str(head.run(first).checkpoints / "step-00000003")
    spec = read_json(head.run(second).spec)
    assert spec is not None
    assert spec["after"] == str(head.run(first).root)


def test_queues_and_their_quotas(tmp_path: Path) -> None:
    """A job of an unknown queue is refused with the known ones; one beyond a quota waits."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "queues.yaml").write_text(yaml.safe_dump(QUEUES))
    with service(home, plain=True) as head:
        file = worker_file(tmp_path, "w", **SHORT)
        unknown = head.muster("submit", file, "--set", "queue.name=nigth")
        assert unknown.code == 2
        assert "night" in unknown.err
        too_high = head.muster(
            "submit", file, "--set", "queue.name=night", "--set", "queue.priority=50"
        )
        assert too_high.code == 2
        assert "priority_max" in too_high.err
        waiting = head.submit(file, "queue.name=small")
        poll(lambda: "quota of queue small is 1" in reason(head, waiting), 30, "the quota")
        other = head.submit(file)
        head.await_state(other, "SUCCEEDED")
        assert head.state(waiting) == "QUEUED"
        with head.client() as client:
            client.cancel(waiting)
        assert head.state(waiting) == "CANCELLED"
