"""For every test: the numerics' environment, the command line, and a session that ends clean."""

from __future__ import annotations

import os

# Read when MindSpore is imported, so set before any test module is; the reasons are the
# trainer's own (one kernel set, one thread: the same numbers wherever the tests run).
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests bring rehearsal nodes of their own.
os.environ.pop("MUSTER_SIMULATED_NODE", None)

import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.layout import read_json

LEFT_BEHIND_DEADLINE = 15.0
"""Seconds after the last test within which everything that tests started must be gone."""

# Inherited by whatever a test starts, so that sessions side by side do not blame each other.
_MARK = "PYTEST_SESSION_MARK"
_TOKEN = secrets.token_hex(8)
os.environ[_MARK] = _TOKEN
# Nothing that was barred on this machine, and never made unless a test bars something.
os.environ["MUSTER_HOME"] = str(Path(tempfile.gettempdir()) / f"home-of-tests-{_TOKEN}")

_BEFORE = pytest.StashKey[frozenset[str]]()
_LEFT = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def python() -> list[str]:
    """The interpreter that runs the tests, as an argv to put more behind."""
    return [sys.executable]


@pytest.fixture(scope="session")
def muster(python: list[str]) -> list[str]:
    """The command line as an argv to put more behind; run it as a subprocess."""
    return [*python, "-m", "orchestrator"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember what was there before."""
    session.config.stash[_BEFORE] = frozenset(_spools()) | frozenset(_own_ports())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if tests left processes, files of runs or open ports behind."""
    before = session.config.stash.get(_BEFORE, None)
    if before is None:
        return
    deadline = time.monotonic() + LEFT_BEHIND_DEADLINE
    while (left := list(_left_behind(before))) and time.monotonic() < deadline:
        time.sleep(0.1)
    session.config.stash[_LEFT] = left
    if left and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was left behind."""
    left = config.stash.get(_LEFT, [])
    if left:
        terminalreporter.section("left behind by the tests: the session fails", red=True)
        for line in left:
            terminalreporter.line(line)


def _left_behind(before: frozenset[str]) -> Iterator[str]:
    ours = set(processes.marked(_MARK, _TOKEN)) | set(processes.descendants(os.getpid()))
    for pid in sorted(ours):
        if processes.state_of(pid) not in (None, "Z"):
            yield f"process {pid}: {_command(pid)}"
    for path in _spools():
        if path not in before and not _in_use_by_others(path, ours):
            yield f"directory {path}"
    yield from (f"{port}, open in the test process" for port in _own_ports() - before)


def _spools() -> Iterator[str]:
    """Directories of runs, whoever made them."""
    for base, pattern in ((Path("/dev/shm"), "muster-*"), (_temporary(), "muster-ray-*")):
        yield from map(str, base.glob(pattern))


def _temporary() -> Path:
    return Path(tempfile.gettempdir())


def _in_use_by_others(path: str, ours: set[int]) -> bool:
    """Whether a living process that no test of ours started owns or names the directory."""
    owner = (read_json(Path(path) / "owner.json") or {}).get("pid")
    for spool in Path("/dev/shm").glob("muster-*/owner.json"):
        document = read_json(spool) or {}
        owner = document.get("pid") if document.get("ray") == path else owner
    named = {*processes.mentioning(path), *([owner] if owner else [])} - ours - {os.getpid()}
    return any(processes.state_of(pid) not in (None, "Z") for pid in named)


def _command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "?"
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()[:200]


def _own_ports() -> frozenset[str]:
    """TCP ports that this very process listens on; those of others go with their processes."""
    sockets = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            sockets.add(os.readlink(entry))
        except OSError:
            continue
    return frozenset(
        f"port {port}" for inode, port in _listening() if f"socket:[{inode}]" in sockets
    )


def _listening() -> Iterator[tuple[str, int]]:
    """Inode and port of every listening TCP socket of this network namespace (proc(5))."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == "0A":  # TCP_LISTEN
                yield fields[9], int(fields[1].rpartition(":")[2], 16)
