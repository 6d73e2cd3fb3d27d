"""Processes as /proc shows them: real ones, killed for real."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.processes import Identity
from tests.support_core import gone, kill, python, until

FAMILY = """
import os, sys, time
child = os.fork()
if child == 0:
    os.setsid()
    grandchild = os.fork()
    if grandchild == 0:
        time.sleep(600)
    print(os.getpid(), grandchild, flush=True)
    time.sleep(600)
time.sleep(600)
"""

MORTAL = """
import os, sys, time
from orchestrator import processes
parent = os.getpid()
if os.fork() == 0:
    processes.die_with_parent(parent)
    print(os.getpid(), flush=True)
time.sleep(600)
"""

ORPHAN = """
import os, sys, time
from orchestrator import processes
parent = os.getpid()
child = os.fork()
if child == 0:
    while os.getppid() == parent:
        time.sleep(0.001)
    processes.die_with_parent(parent)
    print("lived on", flush=True)
    os._exit(0)
print(child, flush=True)
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int, int]]:
    """A process, its child in a session of its own, and that one's child."""
    parent = python(FAMILY, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child, grandchild = map(int, parent.stdout.readline().split())
    yield parent.pid, child, grandchild
    kill(grandchild, child, parent.pid)
    parent.wait()
    parent.stdout.close()


@contextlib.contextmanager
def sleeper(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_identity_outlives_its_pid() -> None:
    """A process is alive under its identity only: neither a zombie nor a later user of the pid."""
    with sleeper() as process:
        identity = processes.identify(process.pid)
        assert identity is not None and identity.alive()
        assert not replace(identity, start_time=identity.start_time + 1).alive()
        assert not replace(identity, boot_id="another boot").alive()
        process.kill()
        until(lambda: processes.state_of(process.pid) == "Z", "the zombie")
        assert not identity.alive()
        assert processes.identify(process.pid) == identity
        process.wait()
        assert not identity.alive()
        assert processes.identify(process.pid) is None
        assert processes.state_of(process.pid) is None


def test_an_identity_is_the_same_from_anywhere() -> None:
    """Another process that looks at this one sees the same identity."""
    code = (
        "import sys; from orchestrator import processes as p; print(p.identify(int(sys.argv[1])))"
    )
    own = processes.identify(os.getpid())
    seen = subprocess.run(
        [sys.executable, "-c", code, str(os.getpid())], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == str(own)
    assert isinstance(own, Identity)


def test_descendants_are_found_in_other_sessions(family: tuple[int, int, int]) -> None:
    """Children and their children, also after setsid; the process itself is not among them."""
    parent, child, grandchild = family
    assert sorted(processes.descendants(parent)) == sorted([child, grandchild])
    assert {parent, child, grandchild} <= set(processes.descendants(os.getpid()))


def test_zombies_are_no_descendants(family: tuple[int, int, int]) -> None:
    """The dead that nobody has collected yet are left out."""
    parent, child, grandchild = family
    kill(grandchild)
    until(lambda: processes.state_of(grandchild) == "Z", "the zombie")
    assert processes.descendants(parent) == [child]


def test_marks_are_found_exactly() -> None:
    """A process is marked by the whole of a variable's value, in its own environment."""
    value = secrets.token_hex(8)
    with sleeper(MARK_OF_A_TEST=value) as process:
        until(lambda: value.encode() in environment_of(process.pid), "the environment")
        assert processes.marked("MARK_OF_A_TEST", value) == [process.pid]
        assert processes.marked("MARK_OF_A_TEST", value[:-1]) == []
        assert processes.marked("ARK_OF_A_TEST", value) == []


def environment_of(pid: int) -> bytes:
    """What /proc says the process was started with."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def test_command_lines_are_searched() -> None:
    """A text in the arguments is found."""
    text = secrets.token_hex(8)
    process = python("import time; time.sleep(600)", text)
    try:
        until(lambda: processes.mentioning(text) == [process.pid], "the command line")
    finally:
        process.kill()
        process.wait()
    assert processes.mentioning(text) == []


@pytest.mark.parametrize("name", [b"tr\xe8\xae\xad\xe7\xbb", b"a) R 1 (b", b"\xff\xfe", b"x y\nz"])
def test_names_of_any_bytes_are_read(tmp_path: Path, name: bytes) -> None:
    """A process may be called anything, cut in the middle of a character too."""
    program = os.fsencode(tmp_path) + b"/" + name
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    process = subprocess.Popen([program, b"600"])
    try:
        until(lambda: Path(f"/proc/{process.pid}/comm").read_bytes() == name + b"\n", "exec")
        identity = processes.identify(process.pid)
        assert identity is not None and identity.alive()
        until(lambda: processes.state_of(process.pid) == "S", "its sleep")
        assert process.pid in processes.descendants(os.getpid())
        assert processes.name_of(process.pid)
    finally:
        process.kill()
        process.wait()


def test_the_gone_have_no_name() -> None:
    """Nothing is raised for a pid that nobody has."""
    with sleeper() as process:
        pid = process.pid
    assert processes.name_of(pid) == ""
    processes.kill_quietly(pid)


def test_a_child_dies_with_its_parent() -> None:
    """SIGKILL to the parent is the end of the child that asked for it."""
    parent = python(MORTAL, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not gone(child)
    kill(parent.pid)
    parent.wait()
    parent.stdout.close()
    until(lambda: gone(child), "the child's end")


def test_who_lost_its_parent_before_asking_leaves() -> None:
    """A child whose parent died in the meantime does not live on."""
    parent = python(ORPHAN, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.wait()
    until(lambda: gone(child), "the orphan's end")
    assert b"lived on" not in parent.stdout.read()
    parent.stdout.close()


def test_signals_to_the_living_arrive() -> None:
    """The number given is the one sent."""
    with sleeper() as process:
        processes.kill_quietly(process.pid, signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
