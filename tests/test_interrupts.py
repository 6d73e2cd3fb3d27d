"""Ctrl-C to the command line, at moments all over its life."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.jobfile import load
from orchestrator.local_run import create

ROOT = Path(__file__).resolve().parent.parent
MOMENTS = 10
CALLBACK = """
import os, signal, time
from orchestrator import interrupts

class Forgetful:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

interrupts.leave_at_once()
with interrupts.in_order():
    Forgetful()
    time.sleep(60)
"""


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The interpreter on this tree's code."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def interrupted(moment: int, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command with a SIGINT before that line of Python."""
    return python(ROOT / "tests/scripts/interrupted.py", str(moment), *command)


@pytest.mark.parametrize("command", ["status", "events", "explain", "plan", "devices"])
def test_an_interrupted_command_leaves_with_130_and_no_traceback(
    command: str, tmp_path: Path
) -> None:
    """In its imports, at its work or at its end."""
    file = ROOT / "jobs/rehearsal_8p_cpu.yaml"
    run = tmp_path / "run"
    create(run, load(file), file.read_bytes())
    given = {"plan": [file], "devices": ["--json"]}.get(command, [run])
    whole = interrupted(0, command, *given)
    lines = int(whole.stderr.splitlines()[-1])
    seed = os.environ.get("MUSTER_TEST_SEED", command)
    for moment in random.Random(seed).sample(range(1, lines * 9 // 10), MOMENTS):
        done = interrupted(moment, command, *given)
        told = f"seed {seed}, line {moment} of {lines}: {done.returncode}: {done.stderr}"
        assert done.returncode == 130, told
        for word in ("Traceback", "Aborted", "ignored"):
            assert word not in done.stderr, told


def test_an_interrupt_that_a_callback_would_swallow_is_not_lost() -> None:
    """Python prints and forgets what is raised in a finalizer."""
    done = python("-c", CALLBACK)
    assert (done.returncode, done.stderr) == (130, "")


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    """As for a command that a script has started with `&`."""
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from orchestrator import interrupts\n"
        "interrupts.leave_at_once()\n"
        "with interrupts.in_order():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "print('went on')\n"
    )
    assert python("-c", program).stdout == "went on\n"
