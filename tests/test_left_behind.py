"""The check at a session's end: each kind of leftover fails it, and only the session's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.left_behind import MARK, Trace
from tests.runs import Completed
from tests.support_core import kill

ROOT = Path(__file__).parents[1]

# What tests may leave, a test for each kind.
LEAKS = """
import json, os, socket, subprocess, sys, tempfile
from pathlib import Path

SLEEP = "import time; time.sleep(600)"
PARENT = '''
import subprocess, sys
quiet = dict(stdin=-3, stdout=-3, stderr=-3)
own = dict(word.split("=") for word in sys.argv[1].split())
command = [sys.executable, "-S", "-c", *sys.argv[2:]]
subprocess.Popen(command, env=own, start_new_session=True, **quiet)
'''
OPEN = []

def detached(*arguments, **environment):
    own = " ".join(map("=".join, environment.items()))
    subprocess.run([sys.executable, "-c", PARENT, own, SLEEP, *map(str, arguments)], check=True)

def test_child():
    OPEN.append(subprocess.Popen([sys.executable, "-S", "-c", SLEEP, "leak-child"], env={}))

def test_orphan():
    detached("leak-orphan", PYTEST_SESSION_MARK=os.environ["PYTEST_SESSION_MARK"])

def test_head(home):
    assert home.stat().st_mode & 0o777 == 0o700 and not list(home.iterdir())
    detached("leak-head", MUSTER_HOME=os.environ["MUSTER_HOME"])

def test_supervisor(tmp_path):
    detached("leak-supervisor", tmp_path / "run")

def test_port():
    OPEN.append(socket.create_server(("127.0.0.1", 0)))

def test_directories(tmp_path):
    spool = Path(os.environ["LEAK_SPOOL"])
    spool.mkdir()
    owner = {"pid": 0, "ray": "/tmp/muster-ray-none", "run_dir": str(tmp_path / "run")}
    (spool / "owner.json").write_text(json.dumps(owner))
    tempfile.mkdtemp(prefix="muster-ray-")

def test_home_of_nobody():
    Path(os.environ["MUSTER_HOME"]).mkdir()
"""

CRASH = """
import os, subprocess, sys

def test_crash():
    code = "import time; time.sleep(600)"
    subprocess.Popen([sys.executable, "-S", "-c", code, "leak-crash"], start_new_session=True)
    os._exit(3)

def test_good():
    pass
"""

# Another's: binds a socket in a directory as soon as it is there, and nothing else names it.
HOLDER = """
import os, socket, time
spool = os.environ["LEAK_SPOOL"] + "3"
while not os.path.isdir(spool):
    time.sleep(0.01)
holder = socket.socket(socket.AF_UNIX)
holder.bind(spool + "/control.sock")
time.sleep(600)
"""

# The spools are those of others: of a run that goes on, of one elsewhere that was killed, and of
# one that has said nothing yet.
NEIGHBOUR = """
import json, os
from pathlib import Path
import pytest
from tests.runs import poll

@pytest.mark.parametrize(("which", "pid", "run_dir"),
    [("1", int(os.environ["LEAK_PID"]), ""), ("2", 0, "/somewhere/run")])
def test_nothing(home, which, pid, run_dir):
    spool = Path(os.environ["LEAK_SPOOL"] + which)
    spool.mkdir()
    owner = {"pid": pid, "ray": "/tmp/muster-ray-none", "run_dir": run_dir}
    (spool / "owner.json").write_text(json.dumps(owner))

def test_holder():
    spool = Path(os.environ["LEAK_SPOOL"] + "3")
    spool.mkdir()
    poll((spool / "control.sock").exists, 60)
"""


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Path]:
    """A run's directory in shared memory, not made yet; it goes, and every process with it."""
    path = Path(f"/dev/shm/muster-leak-{os.getpid()}")
    yield path
    for pid in Trace("nobody", str(tmp_path)).known():
        kill(pid)
    for directory in path.parent.glob(f"{path.name}*"):
        shutil.rmtree(directory)


def session(tmp_path: Path, spool: Path, text: str, workers: int) -> Completed:
    """Tests of their own in a session of their own that ends with the check."""
    file = tmp_path / "test_leaks.py"
    file.write_text(text)
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    told = {"LEAK_SPOOL": str(spool), "LEAK_PID": str(os.getpid()), "TMPDIR": str(tmp_path)}
    light = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest"),
            *("-p", "xdist", "-n", str(workers), "--max-worker-restart=0"),
            *("-c", str(ROOT / "pyproject.toml"), "-o", "left_behind_deadline=0.5"),
            *(f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'base'}", str(file)),
        ],
        cwd=tmp_path,
        env={**alone, **told, **light},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Completed(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_leftover_fails_the_session(
    tmp_path: Path, spool: Path, workers: int
) -> None:
    """A child, an orphan, a head, a supervisor, a port, directories and a home are each named."""
    done = session(tmp_path, spool, LEAKS, workers)
    assert done.code == 1, done.text
    tests, _, said = done.out.partition("left behind by the tests: the session fails")
    assert "." * 7 in tests and "7 passed" in said
    for kind in ("child", "orphan", "head", "supervisor"):
        assert f"leak-{kind}" in said, done.text
    assert re.search(r"^port \d+, open in the test process", said, re.MULTILINE)
    assert f"directory {spool}\n" in said
    assert f"directory {tmp_path}/muster-ray-" in said
    assert f"directory {tmp_path}/home-of-tests-" in said


def test_what_a_crashed_worker_had_started_is_found(tmp_path: Path, spool: Path) -> None:
    """The session looks for it, since the worker cannot."""
    done = session(tmp_path, spool, CRASH, 2)
    assert done.code == 1
    _, _, said = done.out.partition("left behind by the tests: the session fails")
    assert "leak-crash" in said, done.text


@pytest.mark.parametrize("workers", [0, 2])
def test_what_others_use_is_no_leftover(tmp_path: Path, spool: Path, workers: int) -> None:
    """A living process of another session, and directories of runs that are not ours."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env={MARK: "another", "LEAK_SPOOL": str(spool)}
    )
    try:
        done = session(tmp_path, spool, NEIGHBOUR, workers)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    assert done.code == 0, done.text
