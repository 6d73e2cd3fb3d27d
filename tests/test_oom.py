"""Kills for memory: what the kernel's log says of a process, and what it does not say."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orchestrator.oom import kill_logged

FIRST = "pid:[4026531836]"

GLOBAL = (
    "Out of memory: Killed process 4711 (python) total-vm:9000kB, anon-rss:8000kB, file-rss:0kB, "
    "shmem-rss:0kB, UID:0 pgtables:64kB oom_score_adj:0"
)
GROUP = "Memory cgroup out of memory: Killed process 4711 (a) b) total-vm:9000kB"
CONSTRAINT = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    "oom_memcg=/job,task_memcg=/job,task=python,pid=4711,uid=0"
)


@pytest.fixture
def kernel(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A kernel's log with these texts at second 100, asked for a kill of a pid since a second."""

    def ask(*texts: str, pid: int = 4711, since: float = 90.0, namespace: str = FIRST) -> str:
        log, link = tmp_path / "kmsg", tmp_path / "pid"
        log.write_text("".join(f"6,7,100000000,-;{text}\n SUBSYSTEM=mem\n" for text in texts))
        link.unlink(missing_ok=True)
        os.symlink(namespace, link)
        return kill_logged(pid, since, log=log, namespace=link)

    return ask


@pytest.mark.parametrize("text", [GLOBAL, GROUP, CONSTRAINT])
def test_a_kill_that_the_kernel_logged_is_found(kernel, text: str) -> None:  # type: ignore[no-untyped-def]
    """Of the whole machine's memory or a group's, in either of its two lines."""
    assert kernel(text) == text


@pytest.mark.parametrize(
    "asked",
    [
        {"pid": 471},
        {"pid": 47110},
        {"since": 200.0},  # another process had this pid before
        {"namespace": "pid:[4026532999]"},  # a container: the kernel writes other pids
    ],
)
def test_what_is_not_sure_to_be_this_process_is_not_taken(kernel, asked: dict) -> None:  # type: ignore[no-untyped-def]
    """A pid in the log says nothing unless it is this very process's."""
    assert kernel(GLOBAL, **asked) == ""


def test_other_lines_say_nothing(kernel) -> None:  # type: ignore[no-untyped-def]
    """A process that only mentions the words is no victim."""
    assert kernel("python invoked oom-killer: gfp_mask=0x1, pid=4711, uid=0", "usb 4711") == ""
    assert kernel() == ""


def test_a_log_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    """Nor is one that nobody ever writes to: it is not waited for."""
    link = tmp_path / "pid"
    os.symlink(FIRST, link)
    assert kill_logged(1, 0.0, log=tmp_path / "none", namespace=link) == ""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert kill_logged(1, 0.0, log=fifo, namespace=link) == ""


def test_the_log_of_this_machine_is_read_without_waiting() -> None:
    """Whatever this user may: no kill is on record of a process that lives."""
    assert kill_logged(os.getpid(), time.monotonic()) == ""
