"""`muster up` and `down` as a person uses them, tokens, and the unit for systemd."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator import processes
from orchestrator.cli import main
from orchestrator.cli.service import _environment
from orchestrator.client import Client
from orchestrator.layout import Home, read_json
from orchestrator.processes import Identity
from tests.heads import PATIENCE
from tests.runs import MUSTER, Completed, poll

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "docs" / "systemd"


class Machine:
    """A home, and commands in it."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "MUSTER_HOME": str(self.home.root), "PYTHONPATH": str(ROOT), **more}

    def muster(self, *arguments: str, **more: str) -> Completed:
        """A command, from a place where this package is not."""
        done = subprocess.run(
            [*MUSTER, *arguments],
            cwd="/",
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    def process(self) -> Identity | None:
        """The controller that head.json names, if it lives."""
        found = read_json(self.home.address)
        if not found:
            return None
        process = Identity(found["pid"], found["start_time"], found["boot_id"])
        return process if process.alive() else None

    def end(self) -> None:
        """Leave nothing behind, whatever has failed: a controller takes its Ray with it."""
        process = self.process()
        if process is not None:
            os.kill(process.pid, signal.SIGTERM)
            poll(lambda: not process.alive(), PATIENCE, "the controller's end")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine on which nothing runs yet."""
    machine = Machine(tmp_path / "home")
    yield machine
    machine.end()


def pid_of(done: Completed) -> Any:
    """Whom `up --json` names."""
    assert done.code == 0, done.err
    return done.json()["controller_pid"]


@pytest.mark.slow
def test_up_is_idempotent_and_down_ends_it(machine: Machine) -> None:
    """The second `up` finds the first; `down` returns when the process is gone; both say so."""
    document = machine.muster("up", "--json").json()
    assert document["ray_address"].rpartition(":")[2].isdecimal()
    assert set(document) == {"schema", "observed_at", "controller_pid", "url", "ray_address"}
    again = machine.muster("up", "--no-wait", "--json", MUSTER_URL="http://127.0.0.1:9")
    assert pid_of(again) == document["controller_pid"]
    assert "runs already" in machine.muster("up", "--no-wait").out
    process = machine.process()
    assert process is not None and process.pid == document["controller_pid"]
    assert os.getsid(process.pid) == process.pid
    assert os.readlink(f"/proc/{process.pid}/cwd") == "/"
    assert stat.S_IMODE(machine.home.log.stat().st_mode) == 0o600
    assert stat.S_IMODE(machine.home.root.stat().st_mode) == 0o700
    ended = machine.muster("down")
    assert (ended.code, process.alive()) == (0, False)
    for arguments in (("down",), ("down", "--keep-ranks")):
        nothing = machine.muster(*arguments)
        assert (nothing.code, "no controller runs here" in nothing.out) == (0, True)


@pytest.mark.slow
def test_up_replaces_a_killed_controller(machine: Machine) -> None:
    """After kill -9 commands say who is gone, and `up` starts another, with the same jobs."""
    first = pid_of(machine.muster("up", "--no-wait", "--json"))
    # More devices than there are, so that it waits.
    job = Client.from_environment(machine.environment()).submit(
        "version: 1\nname: kept\nmodule: train\nworkdir: /\nresources: {device: gpu, ranks: 64}\n"
    )["job"]
    os.kill(first, signal.SIGKILL)
    poll(lambda: machine.process() is None, 10.0, "its death")
    second = machine.muster("up", "--no-wait", "--json")
    assert pid_of(second) != first
    assert job in machine.muster("ps").out


@pytest.mark.slow
def test_two_starts_at_once_make_one_controller(machine: Machine) -> None:
    """Whoever comes second finds the first, and both name it."""
    with ThreadPoolExecutor(2) as both:
        done = list(both.map(lambda _: machine.muster("up", "--no-wait", "--json"), range(2)))
    assert pid_of(done[0]) == pid_of(done[1])


@pytest.mark.slow
def test_a_start_that_fails_tells_why(machine: Machine) -> None:
    """The process's own last words, exit code 1, and where the whole log is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = machine.muster("up", "--no-wait", "--port", port)
    assert (done.code, done.out) == (1, "")
    assert f"port {port}" in done.err and "in use" in done.err
    assert str(machine.home.log) in done.err
    assert "Traceback" not in done.err
    machine.home.root.joinpath("occupied").touch()
    unusable = machine.muster("up", MUSTER_HOME=str(machine.home.root / "occupied"))
    assert (unusable.code, "MUSTER_HOME" in unusable.err) == (1, True)


@pytest.mark.slow
def test_in_the_foreground_it_is_the_controller_itself(machine: Machine) -> None:
    """What systemd has started is the process that it watches; its end is a good one."""
    with subprocess.Popen(
        [*MUSTER, "up", "--foreground"],
        env=machine.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as started:
        process = poll(machine.process, PATIENCE, "the controller")
        assert process.pid == started.pid
        second = machine.muster("up", "--foreground")
        assert (second.code, "runs already" in second.err) == (1, True)
        assert machine.muster("down", "--keep-ranks", "--json").json()["running"] is False
        assert started.wait(PATIENCE) == 0


def test_down_by_two_ways_at_once_is_wrong_usage(machine: Machine) -> None:
    """Leaving ranks alone and waiting for them exclude each other."""
    done = machine.muster("down", "--keep-ranks", "--drain")
    assert (done.code, "choose one" in done.err) == (2, True)


def test_a_controller_that_stands_still_is_told(machine: Machine) -> None:
    """A living process without an answer is not started anew: exit code 4 and its number."""
    me = processes.identify(os.getpid())
    assert me is not None
    machine.home.root.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        silent.close()
        machine.home.token.write_text("muster_x\n")
        machine.home.address.write_text(
            json.dumps(
                {"url": url, "pid": me.pid, "start_time": me.start_time, "boot_id": me.boot_id}
            )
        )
        done = machine.muster("up")
    machine.home.address.unlink()
    assert (done.code, f"process {me.pid} is there" in done.err) == (4, True)


def test_relative_places_mean_the_same_to_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller stands elsewhere, so what names a place in its environment is absolute."""
    monkeypatch.chdir(tmp_path)
    for name in ("MUSTER_HOME", "MUSTER_SIMULATED_NODE", "PYTHONPATH"):
        monkeypatch.setenv(name, "here")
    found = _environment()
    assert found["MUSTER_HOME"] == found["MUSTER_SIMULATED_NODE"] == str(tmp_path / "here")
    assert str(tmp_path / "here") in found["PYTHONPATH"].split(os.pathsep)
    assert found["PATH"] == os.environ["PATH"]


def test_tokens_are_made_shown_once_and_removed(machine: Machine) -> None:
    """The text is printed by `add` alone; the file has digests and is its owner's."""
    run = CliRunner()
    env = {"MUSTER_HOME": str(machine.home.root)}
    assert "no tokens yet" in run.invoke(main, ["tokens"], env=env).stdout
    text = run.invoke(main, ["tokens", "add", "ann", "--role", "submit"], env=env).stdout.strip()
    assert text.startswith("muster_") and len(text) == 50
    assert text not in machine.home.tokens.read_text()
    assert stat.S_IMODE(machine.home.tokens.stat().st_mode) == 0o600
    listed = json.loads(run.invoke(main, ["tokens", "list", "--json"], env=env).stdout)
    assert [(one["name"], one["role"]) for one in listed["tokens"]] == [("ann", "submit")]
    again = run.invoke(main, ["tokens", "add", "ann", "--role", "read"], env=env)
    assert (again.exit_code, "remove it first" in again.stderr) == (2, True)
    assert run.invoke(main, ["tokens", "add", "a b", "--role", "read"], env=env).exit_code == 2
    assert run.invoke(main, ["tokens", "add", "x", "--role", "root"], env=env).exit_code == 2
    assert run.invoke(main, ["tokens", "remove", "ann"], env=env).exit_code == 0
    assert run.invoke(main, ["tokens", "remove", "ann"], env=env).exit_code == 3


def unit() -> configparser.RawConfigParser:
    """The unit, read as systemd does: names as they are written."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / "muster.service")
    return parser


def test_the_unit_leaves_ranks_alone() -> None:
    """What systemd may do to the controller it does not do to the ranks in its control group."""
    service = unit()["Service"]
    assert service["KillMode"] == "process"
    assert service["OOMPolicy"] == "continue"
    assert service["Restart"] == "always"
    assert service["ExecStop"].endswith(" down --keep-ranks")
    assert service["ExecStart"].endswith(" up --foreground $MUSTER_UP_OPTIONS")
    inherited = {"NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "MemoryMax"}
    assert inherited & set(service) == set()


def test_the_units_commands_and_options_exist() -> None:
    """Its command lines, with the options of the example environment, are ours."""
    lines = (UNITS / "muster.env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    options = variables["MUSTER_UP_OPTIONS"].split()
    for arguments in (["up", "--foreground", *options], ["down", "--keep-ranks"]):
        done = CliRunner().invoke(main, [*arguments, "--help"])
        assert done.exit_code == 0
        assert all(one in done.stdout for one in arguments if one.startswith("--"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_unit() -> None:
    """`systemd-analyze verify` has nothing to say, not even a warning."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(UNITS / "muster.service")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    about = [line for line in done.stderr.splitlines() if "muster" in line]
    assert (done.returncode, about) == (0, [])
