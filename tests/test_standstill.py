"""Real runs in which processes stand still that are not ranks: the supervisor, the controller.

Ray is a stand-in, and three seconds of silence are too long.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import processes
from orchestrator.launch import MARK
from tests.runs import SCRIPTS, Job, assert_nothing_left, end, worker_job

pytestmark = pytest.mark.slow

IMPATIENT = [sys.executable, str(SCRIPTS / "impatient_run.py")]


class Run:
    """A run that trains, and what of it can be stopped."""

    def __init__(self, job: Job, controller: subprocess.Popen[bytes]) -> None:
        self.job = job
        self.controller = controller
        self.live = job.live()

    def last(self, kind: str) -> dict[str, Any]:
        """The newest event of a kind."""
        found: dict[str, Any] = [e for e in self.job.events() if e["kind"] == kind][-1]
        return found

    @property
    def supervisor(self) -> int:
        pid: int = self.last("supervisor_started")["data"]["pid"]
        return pid

    def step(self) -> int:
        """The newest step of all, from the heartbeats."""
        return max(rank["step"] or 0 for rank in self.job.status()["ranks"])

    def await_steps(self, more: int) -> None:
        """Let the ranks go on, whoever stands still."""
        self.job.await_step(self.step() + more)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts runs of two ranks, twenty steps a second."""
    started: list[subprocess.Popen[bytes]] = []

    def start(steps: int) -> Run:
        job = worker_job(
            tmp_path,
            args={"steps": steps, "pause": 0.05},
            checkpoint={"every_steps": 20},
            restart={"backoff": {"first": 0, "max": 0}},
        )
        with open(job.run_dir.with_suffix(".out"), "wb") as log:
            command = [*IMPATIENT, "run", str(job.file), "--run-dir", str(job.run_dir)]
            started.append(
                subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            )
        job.await_step(5)
        return Run(job, started[-1])

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
        end(process)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """They stand still meanwhile, from the first on, and go on from the last on."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def test_a_supervisor_that_stands_still_is_ended_and_the_run_resumes(
    begin: Callable[..., Run],
) -> None:
    """It counts as lost: one restart of class node, from what its ranks saved meanwhile."""
    run = begin(steps=120)
    old = [run.supervisor, *processes.descendants(run.supervisor)]
    assert len(old) >= 3
    os.kill(run.supervisor, signal.SIGSTOP)
    assert run.controller.wait(60) == 0, run.job.output()
    silent = run.last("supervisor_silent")
    assert silent["data"]["pid"] == old[0]
    assert silent["data"]["process"]["state"] == "T"
    [incident] = run.job.incidents()
    assert incident["class"] == "node"
    assert "said nothing for 3 s: its process is stopped; it was ended" in incident["cause"]
    second = run.last("attempt")
    assert second["attempt"] == 2
    assert second["data"]["resumed_step"] >= 40  # the ranks went on while nobody watched
    assert not [pid for pid in old if processes.state_of(pid) not in (None, "Z")]
    assert_nothing_left(run.live)


def test_a_run_whose_supervisor_stands_still_can_be_stopped(begin: Callable[..., Run]) -> None:
    """Nobody waits for its answer longer than for any other word of it."""
    run = begin(steps=100_000)
    marked = processes.marked(MARK, run.live["run_id"])
    os.kill(run.supervisor, signal.SIGSTOP)
    run.controller.send_signal(signal.SIGTERM)
    assert run.controller.wait(60) == 75, run.job.output()
    assert "supervisor_silent" in run.job.kinds()
    assert not [pid for pid in marked if processes.state_of(pid) not in (None, "Z")]
    assert_nothing_left(run.live)


def test_a_controller_that_stood_still_blames_nobody(begin: Callable[..., Run]) -> None:
    """Neither alone nor together with the supervisor, as where a whole machine stood still."""
    run = begin(steps=220)
    controller = run.controller.pid
    with stopped(controller):
        run.await_steps(75)
    with stopped(run.supervisor, controller):
        run.await_steps(75)
    assert run.controller.wait(60) == 0, run.job.output()
    assert not {"supervisor_silent", "failing"} & set(run.job.kinds())
