"""Asking real processes: time limits, what hangs, what prints without end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster.ascend.place import NoSuchNode, find
from cluster.ascend.probe import probe
from cluster.ascend.values import Unmeasured
from cluster.command import run
from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.node_file import save
from cluster.simulated.rehearsal import create
from tests.runs import poll
from tests.simulated import node

ROOT = Path(__file__).resolve().parent.parent
FOREVER = "import time; time.sleep(600)"


def python(program: str, timeout: float = 30.0) -> tuple[str, str, bool]:
    """Run a program of a line; its text, its failure, and whether the time was up."""
    outcome = run([sys.executable, "-I", "-S", "-c", program], timeout=timeout)
    return outcome.text, outcome.failure, outcome.timed_out


def test_a_command_that_ends_well() -> None:
    """Its text without what would move a cursor, undecodable bytes replaced, and no failure."""
    text, failure, _ = python(r"import sys; sys.stdout.buffer.write(b'a\xff\x1b[2J\r\n\tb')")
    assert text == "a\N{REPLACEMENT CHARACTER}?[2J\n\tb" and failure == ""


def test_a_command_that_fails() -> None:
    """The exit code and what it said on either stream."""
    _, failure, _ = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(187)")
    assert "exit 187: out err" in failure


def test_a_command_that_is_not_there() -> None:
    """It is a failure, not an exception."""
    assert "cannot be started" in run(["/nowhere/npu-smi"], timeout=1).failure


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """A grandchild that holds the pipe open neither delays the answer nor lives on."""
    pid = tmp_path / "pid"
    program = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
        f"open({str(pid)!r} + '.new', 'w').write(str(child.pid))\n"
        f"os.rename({str(pid)!r} + '.new', {str(pid)!r})\n"
        "child.wait()\n"
    )
    _, failure, timed_out = python(program, timeout=5)
    assert timed_out and "no answer within 5 s" in failure
    grandchild = int(pid.read_text())
    poll(lambda: not _alive(grandchild))


def test_a_command_that_prints_without_end_is_stopped() -> None:
    """The bound on its output holds."""
    _, failure, timed_out = python("while True: print('x' * 65536)")
    assert "printed more than" in failure and not timed_out


def test_whoever_is_about_to_end_waits_for_no_tool(tmp_path: Path) -> None:
    """A thread that asks gets its answer at once, what it ran is gone, and nothing is begun."""
    pid = tmp_path / "pid"
    tool = f"import os; open({str(pid)!r}, 'w').write(f'{{os.getpid()}}\\n'); {FOREVER}"
    program = (
        "import os, sys, threading, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from cluster import command\n"
        f"ask = lambda: print(command.run([sys.executable, '-c', {tool!r}], timeout=3600))\n"
        "threading.Thread(target=ask).start()\n"
        f"while not (os.path.exists({str(pid)!r}) and open({str(pid)!r}).read().endswith('\\n')):\n"
        "    time.sleep(0.01)\n"
        "command.leave()\n"
        "ask()\n"
    )
    text, failure, _ = python(program, timeout=60)
    assert not failure and text.count("given up") == 2
    poll(lambda: not _alive(int(pid.read_text())))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_rehearsal_node_is_probed_with_real_processes(tmp_path: Path) -> None:
    """Its tools, its NUMA nodes and its hccn.conf are read; what hangs is left."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 2))
    place = find({VARIABLE: str(directory.root)})
    found = probe(place, {}, question=60, budget=120)
    assert [(d.physical, d.numa, d.ip, d.withheld) for d in found.devices] == [
        (0, 6, "192.168.100.101", ""),
        (1, 6, "192.168.101.101", ""),
    ]
    assert found.simulated == str(directory.root)
    save(directory.file, node("910B3", 2, "hang"))
    found = probe(place, {}, question=0.2, budget=1)
    assert not found.answered and found.problems
    assert all(isinstance(d.health, Unmeasured) for d in found.devices)


def test_tools_on_path_know_that_they_are_simulated(tmp_path: Path) -> None:
    """Without the variable too: by where the tool lies."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 1))
    place = find({"PATH": f"{directory.root / 'bin'}{os.pathsep}/usr/bin"})
    assert place.simulated == directory.root.resolve()


def test_a_variable_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """Real devices must not be taken for the rehearsal that was asked for."""
    with pytest.raises(NoSuchNode, match="no rehearsal node there"):
        find({VARIABLE: str(tmp_path)})


def test_a_machine_without_tools(tmp_path: Path) -> None:
    """Nothing is found, and what was looked for is told."""
    place = find({"PATH": str(tmp_path)})
    if place.npu_smi is None:
        assert any("/usr/local/bin/npu-smi" in text for text in place.looked_for)
        found = probe(place, {})
        assert found.tool is None and not found.answered
