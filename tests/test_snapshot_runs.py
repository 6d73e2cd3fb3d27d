"""Real runs with snapshots: what a death costs, and what is left of them when a run halts."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator import snapshot_place
from orchestrator.layout import RunDirectory
from tests.runs import Job, end, muster, poll, worker_job
from tests.services import service, worker_file

pytestmark = pytest.mark.slow

EVERY = 5
NO_CHECKPOINT = 1000
"""Steps between durable checkpoints that no run here comes to."""


def job_of(tmp_path: Path, args: dict[str, Any], every: int = 50, **fields: Any) -> Job:
    """Two ranks that take a snapshot every five steps."""
    checkpoint = {"every_steps": every, "snapshot_every_steps": EVERY}
    return worker_job(
        tmp_path, args={"pause": 0.01, **args}, checkpoint=checkpoint,
        **{"restart": {"backoff": {"first": 0}}, **fields},
    )  # fmt: skip


def attempts(job: Job) -> list[dict[str, Any]]:
    """What each attempt was told to resume from."""
    return [event["data"] for event in job.events() if event["kind"] == "attempt"]


def place_of(job: Job) -> Path | None:
    """Where the run's snapshots are."""
    return snapshot_place.of(RunDirectory(job.run_dir))


def test_a_death_costs_no_more_than_the_steps_since_a_snapshot(tmp_path: Path) -> None:
    """The run resumes from tmpfs, all ranks prove it, and its memory is given back at the end."""
    job = job_of(tmp_path, {"steps": 30})
    done = job.run("--drill", "kill-rank:1@step:12")
    assert done.code == 0, done.text
    fresh, resumed = attempts(job)
    place = Path(resumed["resumed_from"]).parent
    assert fresh["resumed_from"] is None and place.parent == Path("/dev/shm")
    [incident] = job.incidents()
    assert 0 <= incident["steps_lost"] <= EVERY, incident
    [result] = [event["data"] for event in job.events() if event["kind"] == "drill_result"]
    assert f"at most {EVERY} steps lost" in result["promised"]
    assert resumed["resumed_step"] % EVERY == 0
    assert "resumed" in job.kinds() and "promoted" not in job.kinds()
    assert not place.exists()


def test_a_kill_in_the_middle_of_one_leaves_the_last(tmp_path: Path) -> None:
    """Half a file is written, its seal is gone: the other slot is taken, N steps are lost."""
    job = job_of(tmp_path, {"steps": 30, "fail": "die-in-snapshot@15"})
    done = job.run()
    assert done.code == 0, done.text
    assert [attempt["resumed_step"] for attempt in attempts(job)] == [0, 10]
    assert [incident["steps_lost"] for incident in job.incidents()] == [EVERY]


def test_without_room_a_run_goes_on_without(tmp_path: Path) -> None:
    """Each rank says so in its log; checkpoints are there as ever."""
    env = {"SNAPSHOT_BYTES": str(10**13)}
    job = job_of(tmp_path, {"steps": 30, "fail": "raise@18"}, every=10, env=env)
    done = job.run()
    assert done.code == 0, done.text
    assert [attempt["resumed_step"] for attempt in attempts(job)] == [0, 10]
    assert "no snapshot: " in (job.run_dir / "attempts/001/logs/rank-0.log").read_text()


def test_a_run_that_failed_keeps_its_newest_state(tmp_path: Path) -> None:
    """It becomes a checkpoint of record; `checkpoints` verifies it, `resume` goes on from it."""
    budgets = {"budgets": {"process": 0}}
    args = {"steps": 30, "fail": "raise@18"}
    job = job_of(tmp_path, args, every=NO_CHECKPOINT, restart=budgets)
    done = job.run()
    assert done.code == 1
    [promoted] = [event["data"] for event in job.events() if event["kind"] == "promoted"]
    assert promoted["step"] == 15
    assert place_of(job) is None
    listed = muster("checkpoints", job.run_dir, "verify", "--json")
    assert [(row["step"], row["verified"]) for row in listed.json()["checkpoints"]] == [(15, True)]
    resumed = muster("resume", job.run_dir)
    assert resumed.code == 0, resumed.text
    assert "resuming from step 15" in resumed.text


def test_snapshots_survive_the_controller(tmp_path: Path) -> None:
    """After kill -9 of it, and so of all ranks, `resume` goes on from the newest."""
    job = job_of(tmp_path, {"steps": 400}, every=NO_CHECKPOINT)
    process = job.start()
    try:
        job.await_step(23)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        poll(lambda: "controller_lost" in job.kinds(), 15, "the supervisor's last word")
        listed = muster("checkpoints", job.run_dir, "--json").json()
        assert listed["checkpoints"] == []
        newest = listed["snapshots"][0]
        assert newest["step"] >= 20 and Path(newest["path"]).parent == place_of(job)
        told = muster("checkpoints", job.run_dir)
        assert f"{newest['step']} in tmpfs" in " ".join(told.out.split()), told.out
        resumed = muster("resume", job.run_dir)
        assert resumed.code == 0, resumed.text
        assert attempts(job)[1]["resumed_step"] == newest["step"]
        assert attempts(job)[1]["resumed_from"] == newest["path"]
        assert place_of(job) is None
    finally:
        end(process)


def test_a_submitted_job_keeps_its_newest_state(tmp_path: Path, home: Path) -> None:
    """Its store has the promoted checkpoint, and the job goes on from that when it is resumed."""
    file = worker_file(
        tmp_path, args={"steps": 30, "fail": "raise@18", "always": True, "pause": 0.01},
        checkpoint={"every_steps": NO_CHECKPOINT, "snapshot_every_steps": EVERY},
        restart={"budgets": {"process": 1}, "backoff": {"first": 0, "max": 0}},
    )  # fmt: skip
    with service(home, plain=True) as head:
        job = head.submit(file)
        head.await_state(job, "FAILED")
        poll(lambda: "promoted" in head.kinds(job), 15, "the promotion")
        path = head.run(job).checkpoints / "step-00000015"
        [known] = head.rows("select path from checkpoints where fate = 'kept'")
        assert known == (str(path),)
        began = [e["data"] for e in head.events(job) if e["kind"] == "attempt"]
        assert [attempt["resumed_step"] for attempt in began] == [0, 15]
        poll(lambda: snapshot_place.of(head.run(job)) is None, 15, "the memory is given back")
        with head.client() as client:
            client.resume(job)
        poll(lambda: head.kinds(job).count("attempt") > 2, 60, "another attempt")
        head.await_state(job, "FAILED")
        third = [e["data"] for e in head.events(job) if e["kind"] == "attempt"][2]
        assert third["resumed_from"] == str(path)
