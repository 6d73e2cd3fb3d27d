"""For every test: the numerics' environment, the command line, and a session that ends clean."""

from __future__ import annotations

import os

# Read when MindSpore is imported, so set before any test module is; the reasons are the
# trainer's own (one kernel set, one thread: the same numbers wherever the tests run).
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests bring rehearsal nodes and heads of their own.
os.environ.pop("MUSTER_SIMULATED_NODE", None)
os.environ.pop("MUSTER_URL", None)
os.environ.pop("MUSTER_TOKEN", None)
os.environ.pop("MUSTER_TOKEN_FILE", None)

import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.left_behind import MARK, Trace, of_others, own_ports, run_directories, told

# A shell that starts the tests with `&` has SIGINT ignored, which everything they start would
# inherit: a command that a test interrupts would then run to its end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine makes no property false.
hypothesis.settings.register_profile("muster", deadline=None)
hypothesis.settings.load_profile("muster")

# A worker of pytest-xdist extends the mark of its session, by which that finds all of them.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
_TOKEN = f"{os.environ.get(MARK)}-{_WORKER}" if _WORKER else secrets.token_hex(8)
os.environ[MARK] = _TOKEN
# Nothing that was barred on this machine, and never made: a test that needs one asks for `home`.
_NO_HOME = Path(tempfile.gettempdir()) / f"home-of-tests-{_TOKEN}"
os.environ["MUSTER_HOME"] = str(_NO_HOME)

_BEFORE = pytest.StashKey[frozenset[str]]()
_LEFT = pytest.StashKey[list[str]]()
_OF_WORKER = "left_behind"


@pytest.fixture(scope="session")
def python() -> list[str]:
    """The interpreter that runs the tests, as an argv to put more behind."""
    return [sys.executable]


@pytest.fixture(scope="session")
def muster(python: list[str]) -> list[str]:
    """The command line as an argv to put more behind; run it as a subprocess."""
    return [*python, "-m", "orchestrator"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A MUSTER_HOME of this test alone, empty and for its owner's eyes only.

    A head that a test starts with it (`python -m orchestrator.service`), its Ray, and the
    supervisors and ranks of its jobs are found by this directory if they are left behind, also
    when they have dropped the environment that they were started in.
    """
    directory = tmp_path / "home"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("MUSTER_HOME", str(directory))
    return directory


def pytest_addoption(parser: pytest.Parser) -> None:
    """The tests of this check do not wait as long."""
    about = "seconds after the last test within which everything that tests started must be gone"
    parser.addini("left_behind_deadline", about, "string", "15")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n` and `--dist loadfile` whole files, the longest first."""
    from tests.scheduling import WholeFiles

    return WholeFiles(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In workers the longest files come first; inside a file nothing changes."""
    if _WORKER:
        from tests.scheduling import begins

        items.sort(key=begins)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember what was there before."""
    session.config.stash[_BEFORE] = run_directories() | own_ports()
    session.config.stash[_LEFT] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker has found at its end; for one that crashed the session looks."""
    found = getattr(node, "workeroutput", {}).get(_OF_WORKER, [])
    node.config.stash[_LEFT] += [f"{line} (of {node.gateway.id})" for line in found]


@pytest.hookimpl(trylast=True)  # when the workers have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if tests left processes, files of runs, a home or open ports behind.

    A worker looks for what it has itself: its processes and its ports. Directories are looked at
    when all have ended, since one of a worker that still runs may be in use.
    """
    before = session.config.stash.get(_BEFORE, None)
    if before is None:
        return
    trace = Trace(_TOKEN, str(session.config._tmp_path_factory.getbasetemp()))  # type: ignore[attr-defined]
    deadline = time.monotonic() + float(session.config.getini("left_behind_deadline"))
    left = list(_left_behind(trace, before))
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        still = set(_left_behind(trace, before))  # not what others come and go with meanwhile
        left = [line for line in left if line in still]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_OF_WORKER] = left
        return
    session.config.stash[_LEFT] += left
    good = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if session.config.stash[_LEFT] and session.exitstatus in good:
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


def _left_behind(trace: Trace, before: frozenset[str]) -> Iterator[str]:
    ours = trace.processes()
    yield from told(ours)
    yield from (f"{port}, open in the test process" for port in sorted(own_ports() - before))
    if _NO_HOME.exists():
        yield f"directory {_NO_HOME}"
    if not _WORKER:
        for path in sorted(run_directories() - before):
            if not of_others(path, trace, ours):
                yield f"directory {path}"
