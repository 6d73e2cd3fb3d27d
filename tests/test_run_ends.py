"""However a run ends, nothing of it is left: no process, no port, no file in tmpfs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.processes import state_of
from tests.runs import Job, assert_nothing_left, end, muster, poll, worker_job

pytestmark = pytest.mark.slow


@pytest.fixture
def under_way(tmp_path: Path) -> Iterator[tuple[Job, subprocess.Popen[bytes], dict[str, Any]]]:
    """A real run of three ranks in mid-training."""
    job = worker_job(
        tmp_path, ranks=3, args={"steps": 2000, "pause": 0.02}, checkpoint={"every_steps": 20}
    )
    process = job.start()
    try:
        job.await_step(25)
        yield job, process, job.live()
    finally:
        end(process)


def test_an_interrupted_run_ends_in_order(
    under_way: tuple[Job, subprocess.Popen[bytes], dict[str, Any]],
) -> None:
    """Ctrl-C stops the ranks, writes it down, and names the way back."""
    job, process, live = under_way
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1
    assert_nothing_left(live)
    status = job.status()
    assert status["state"] == "CANCELLED"
    assert "SIGINT" in status["reason"]
    assert f"muster resume {job.run_dir}" in job.output()


def test_a_preempted_run_saves_itself_and_leaves_with_75(
    under_way: tuple[Job, subprocess.Popen[bytes], dict[str, Any]],
) -> None:
    """SIGTERM: all ranks stop after one step with a checkpoint of it, and `resume` loses none."""
    job, process, live = under_way
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert_nothing_left(live)
    status = job.status()
    assert status["state"] == "CANCELLED" and "SIGTERM" in status["reason"]
    lines = (job.run_dir / "attempts/001/exits.jsonl").read_text().splitlines()
    assert [json.loads(line)["code"] for line in lines] == [75, 75, 75]
    assert status["checkpoint"]["step"] == status["step"]
    assert f"muster resume {job.run_dir}" in job.output()


def test_a_killed_command_leaves_nothing(
    under_way: tuple[Job, subprocess.Popen[bytes], dict[str, Any]],
) -> None:
    """kill -9 of the CLI ends ranks, supervisor and Ray, and the journal says why."""
    job, process, live = under_way
    process.kill()
    process.wait()
    assert_nothing_left(live)
    assert job.kinds()[-1] == "controller_lost"


def test_a_killed_supervisor_costs_one_attempt(
    under_way: tuple[Job, subprocess.Popen[bytes], dict[str, Any]],
) -> None:
    """Its ranks die with it, another one is started, and the run resumes."""
    job, process, live = under_way
    before = {rank["pid"] for rank in job.status()["ranks"]}
    drilled = muster("drill", job.run_dir, "--fault", "kill-supervisor")
    assert drilled.code == 0, drilled.text
    poll(lambda: "recovered" in job.kinds(), 60, "recovered")
    assert [incident["class"] for incident in job.incidents()] == ["node"]
    assert {state_of(pid) for pid in before} <= {None, "Z"}
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert_nothing_left(live)


def test_a_killed_raylet_costs_no_rank(
    under_way: tuple[Job, subprocess.Popen[bytes], dict[str, Any]],
) -> None:
    """The ranks go on training without Ray, and nothing is left at the end."""
    job, process, live = under_way
    pids = [rank["pid"] for rank in job.status()["ranks"]]
    drilled = muster("drill", job.run_dir, "--fault", "kill-raylet")
    assert drilled.code == 0, drilled.text
    poll(lambda: "ray_lost" in job.kinds(), 30, "ray_lost")
    step = job.status()["step"]
    job.await_step(step + 20)
    assert [rank["pid"] for rank in job.status()["ranks"]] == pids
    assert job.incidents() == []
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert_nothing_left(live)


def test_a_rank_killed_from_outside_is_seen_and_resumed(
    under_way: tuple[Job, subprocess.Popen[bytes], dict[str, Any]],
) -> None:
    """The incident says who died, when it was seen, and how the time until the next step went."""
    job, process, live = under_way
    [pid] = [rank["pid"] for rank in job.status()["ranks"] if rank["rank"] == 2]
    os.kill(pid, signal.SIGKILL)
    poll(lambda: "recovered" in job.kinds(), 60, "recovered")
    [incident] = job.incidents()
    assert (incident["rank"], incident["cause"]) == (2, "killed by SIGKILL")
    order = ("detected_after", "stopped_after", "allocated_after", "first_step_after")
    times = [incident[name] for name in order]
    assert times == sorted(times)
    status = job.status()
    assert [rank["first_failures"] for rank in status["ranks"]] == [0, 0, 1]
    assert status["restarts"] == {"process": 1}
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert_nothing_left(live)
