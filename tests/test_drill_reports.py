"""Drills end with a report: of `run --drill`, of `drill --wait`, and of a job file rehearsed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drill import FaultError
from orchestrator.drill.rehearsal import faults_for
from tests import matrix
from tests.runs import MUSTER, Job, end, poll, worker_job
from tests.services import service, worker_file
from tests.support_core import job

slow = pytest.mark.slow


@pytest.fixture
def places() -> Iterator[Path]:
    """Where temporary directories are made: a short path, since Ray puts sockets there."""
    with tempfile.TemporaryDirectory(prefix="d-") as directory:
        yield Path(directory)


def plain_job(directory: Path, **args: Any) -> Job:
    """A job without pauses, for runs without a Ray."""
    return matrix.job(directory, [], stay=0, **args)


@slow
def test_a_run_with_drills_ends_with_their_report(tmp_path: Path) -> None:
    """What was promised and found, and exit code 0 when the run kept its word."""
    task = plain_job(tmp_path)
    code, text = matrix.run(task, "kill-rank:1@step:13", "slow-rank:0@step:20")
    assert code == 0 or matrix.LATE in text, text
    report = text.partition("\ndrills\n")[2]
    assert "kill-rank:1@step:13" in report and "class process" in report
    assert "slow-rank:0@step:20" in report and "no failure" in report


@slow
def test_a_drill_whose_moment_does_not_come_has_not_passed(tmp_path: Path) -> None:
    """The run succeeds, its exit code is 1, and the report says why."""
    task = plain_job(tmp_path)
    code, text = matrix.run(task, "kill-rank:1@step:4000")
    assert code == 1
    assert "its moment did not come" in text
    assert "SUCCEEDED" in text


@slow
def test_a_promise_that_is_not_kept_fails_the_run(tmp_path: Path) -> None:
    """A script that ignores a preemption is told so: it never asks whether it should stop."""
    task = plain_job(tmp_path, deaf="true")
    code, text = matrix.run(task, "preempt@step:12")
    assert code == 1
    assert "no failure of class preemption was seen" in text


@slow
def test_drill_wait_tells_what_came_of_it(tmp_path: Path) -> None:
    """From outside, as JSON: the verdict, also in the run's journal."""
    task = plain_job(tmp_path, steps=2000)
    process = subprocess.Popen(
        [*matrix.PLAIN, "run", str(task.file), "--run-dir", str(task.run_dir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        task.await_step(12)
        code, text = matrix.muster(
            tmp_path, "drill", task.run_dir, "--fault", "preempt", "--wait", "--json"
        )
        document = json.loads(text)
        [result] = document["drills"]
        assert code == 0 and document["passed"] and result["passed"], text
        assert "0 steps lost" in result["found"], text
        assert [one["fault"] for one in matrix.verdicts(task)] == ["preempt"]
    finally:
        end(process)


def test_what_a_job_has_not_got_is_not_rehearsed() -> None:
    """No rendezvous scheduler, no simulated devices and no small disk: none of them is broken."""
    plain = {fault.kind for fault in faults_for(job("launch.mode=none"))}
    assert plain.isdisjoint({"kill-scheduler", "lose-device", "alarm-device", "fill-disk"})
    assert {"kill-rank", "preempt", "kill-controller", "corrupt-checkpoint"} <= plain
    assert "kill-scheduler" in {fault.kind for fault in faults_for(job("launch.mode=dynamic"))}


def test_kinds_can_be_chosen_and_mistakes_are_named() -> None:
    """By any of their names; what there is not is told with what there is."""
    assert [one.kind for one in faults_for(job(), ["kill-ray"])] == ["kill-raylet"]
    with pytest.raises(FaultError, match="kill-nobody"):
        faults_for(job(), ["kill-nobody"])


@slow
def test_a_job_file_is_rehearsed_with_a_run_for_each_kind(tmp_path: Path, places: Path) -> None:
    """Real runs in directories of their own that are gone afterwards; the report says all."""
    task = worker_job(
        tmp_path,
        args={"steps": 100_000, "pause": 0.05},
        checkpoint={"every_steps": 5},
        restart={"backoff": {"first": 0, "max": 0}},
    )
    command = [*MUSTER, "drill", str(task.file), "--all", "--kinds", "preempt,kill-controller"]
    done = subprocess.run(
        [*command, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TMPDIR": str(places)},
    )
    document = json.loads(done.stdout)
    assert [one["fault"] for one in document["drills"]] == [
        "preempt@step:3",
        "kill-controller@step:3",
    ]
    assert document["passed"] and done.returncode == 0, done.stdout + done.stderr
    assert not list(places.glob("muster-drill-*"))


@slow
def test_a_rehearsal_that_is_interrupted_leaves_nothing(tmp_path: Path, places: Path) -> None:
    """Ctrl-C ends the run under way; its directory goes too. (The session looks for processes.)"""
    task = worker_job(tmp_path, args={"steps": 100_000, "pause": 0.05})
    command = [*MUSTER, "drill", str(task.file), "--all", "--kinds", "nan-loss"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(places)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        poll(lambda: list(places.glob("muster-drill-*/run/events.jsonl")), what="a run")
        process.send_signal(signal.SIGINT)
        assert process.wait(90) != 0
    finally:
        end(process)
    assert not list(places.glob("muster-drill-*"))


@slow
def test_a_killed_controller_of_a_service_is_followed_by_one_that_adopts(tmp_path: Path) -> None:
    """No rank is stopped, no attempt is lost, and the next controller gives the verdict."""
    file = worker_file(tmp_path, args={"steps": 400, "pause": 0.02})
    with service(tmp_path / "home", plain=True) as head:
        name = head.submit(file)
        head.await_step(name, 5)
        head.muster("drill", name, "--fault", "kill-controller")
        assert head.process is not None
        head.process.wait(30)
        head.start()
        head.await_state(name, "SUCCEEDED")
        poll(lambda: "drill_result" in head.kinds(name), 20, "a verdict")
        [result] = [e["data"] for e in head.events(name) if e["kind"] == "drill_result"]
        assert result["passed"], result
        assert head.started_attempts(name) == [1]
        head.check(name)


@slow
def test_a_drill_of_a_submitted_job_is_waited_for(tmp_path: Path) -> None:
    """`--wait` asks the controller what came of it."""
    file = worker_file(tmp_path, args={"steps": 4000, "pause": 0.02})
    with service(tmp_path / "home", plain=True) as head:
        name = head.submit(file)
        head.await_step(name, 5)
        done = head.muster("drill", name, "--fault", "preempt", "--wait")
        assert done.code == 0, done.text
        assert "class preemption, free of charge" in done.out
        head.muster("cancel", name)
        head.await_state(name, "CANCELLED")
