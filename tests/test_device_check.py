"""`muster devices check` on rehearsal nodes, with real MindSpore processes where it says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.device import Device, DeviceKind
from cluster.device_leases import Leases
from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.rehearsal import create
from orchestrator.processes import descendants, marked, mentioning
from tests.runs import poll
from tests.simulated import node
from tests.test_devices_command import ROOT, muster, off_hardware


def rehearsal(tmp_path: Path, cards: int, *faults: str) -> Path:
    """The directory of a node with faults."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", cards, *faults))
    return directory.root


def test_a_look_at_a_well_node(tmp_path: Path) -> None:
    """Exit 0, every check made and passed, nothing to do."""
    done = muster("devices", "check", "--quick", "--json", at=rehearsal(tmp_path, 2))
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["well"] and document["next"] == [] and document["simulated"]
    for checks in document["devices"].values():
        assert {one["verdict"] for one in checks.values()} == {"pass"}
        assert list(checks) == [
            "health", "link", "network", "ping", "memory", "processes", "barred",
        ]  # fmt: skip


def test_a_look_finds_who_is_ill(tmp_path: Path) -> None:
    """Exit 1; each device with its own reasons, those that share one named together."""
    root = rehearsal(tmp_path, 6, "lost:0", "link-down:1", "foreign:2", "no-ip:3", "unreachable:1")
    muster("devices", "bar", "ascend:4", "--why", "noisy", at=root)
    done = muster("devices", "check", "--quick", at=root)
    assert done.exit_code == 1 and "simulated" in done.stdout
    for told in (
        "not measured: ascend:0: health: lost",
        "fail: ascend:1: link DOWN",
        "fail: ascend:1: ping: 0 of 3 echoes from 192.168.101.1",
        "fail: ascend:2: processes: in use by python (pid 4711)",
        "ascend:3: ping: it has no address",
        "fail: ascend:4: barred until unbarred (noisy)",
        "next: muster devices",
    ):
        assert told in done.stdout, told
    assert muster("devices", "check", "ascend:5", "--quick", at=root).exit_code == 0


def test_mistakes(tmp_path: Path) -> None:
    """Names, kinds and devices of other nodes: exit 2, every mistake at once."""
    root = rehearsal(tmp_path, 1)
    done = muster("devices", "check", "npu:0", "gpu:0", "--kind", "ascend", at=root)
    assert done.exit_code == 2 and "npu:0" in done.stderr and "ascend and gpu" in done.stderr
    done = muster("devices", "check", "ascend:7", at=root)
    assert done.exit_code == 2 and "it has ascend:0" in done.stderr


@off_hardware
def test_nothing_to_check() -> None:
    """Asked for devices that cannot be looked for: exit 1 with the reason; cpu is always there."""
    done = muster("devices", "check", "--kind", "ascend")
    assert done.exit_code == 1 and "npu-smi was not found" in done.stderr
    looked = muster("devices", "check", "--kind", "cpu", "--quick")
    assert looked.exit_code == 0 and "nothing was checked" in looked.stdout
    assert "all well" not in looked.stdout


def test_a_driver_that_is_down_is_not_taken_for_a_machine_without_devices(tmp_path: Path) -> None:
    """Not even its device files are there: exit 1 with the tool's words, not the CPUs in place."""
    root = rehearsal(tmp_path, 2, "driver-down")
    for file in (root / "dev").iterdir():
        file.unlink()
    done = muster("devices", "check", "--quick", at=root)
    assert done.exit_code == 1 and done.stdout == ""
    assert "no ascend device to check: npu-smi info: exit 187" in done.stderr


def test_what_is_ill_or_in_use_is_not_tried(tmp_path: Path) -> None:
    """No process touches it, and that is told."""
    root = rehearsal(tmp_path, 2, "alarm:0=80E01801", "foreign:1")
    done = muster("devices", "check", "--json", at=root)
    assert done.exit_code == 1 and done.stderr == ""
    for checks in json.loads(done.stdout)["devices"].values():
        assert checks["product"]["verdict"] == "not measured"
        assert checks["product"]["why"].startswith("not tried: ")


def test_devices_of_a_run_are_not_tried(tmp_path: Path) -> None:
    """Its ranks may not have opened them yet: then no tool shows them in use."""
    root = rehearsal(tmp_path, 1)
    leases = Leases()
    assert leases.take([Device(DeviceKind.ASCEND, "here", 0)], str(root)) == {}
    try:
        done = muster("devices", "check", at=root)
    finally:
        leases.release()
    assert done.exit_code == 1
    assert "product: not tried: in use by another run of muster" in done.stdout


def test_a_trial_that_cannot_be_started_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full /tmp, for one: exit 1 and a line, no traceback."""

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.trials.tempfile.TemporaryFile", full)
    done = muster("devices", "check", at=rehearsal(tmp_path, 1))
    assert done.exit_code == 1 and done.stdout == ""
    assert "the trials cannot be made: [Errno 28] No space left on device" in done.stderr


@pytest.mark.slow
def test_the_slow_and_the_wrong_device_are_found(tmp_path: Path) -> None:
    """Real processes on the CPU backend: each is named, with the command that bars it."""
    root = rehearsal(tmp_path, 3, "slow:1=4", "wrong:2")
    muster("devices", "bar", "ascend:0", "--why", "was noisy", at=root)
    done = muster("devices", "check", "--json", at=root)
    assert done.exit_code == 1, done.output
    document = json.loads(done.stdout)
    assert (document["slow"], document["wrong"]) == (["ascend:1"], ["ascend:2"])
    assert document["unwell"] == ["ascend:0", "ascend:1", "ascend:2"]
    reduced = {name: one["all-reduce"] for name, one in document["devices"].items()}
    assert [one["verdict"] for one in reduced.values()] == ["pass", "pass", "fail"]
    assert "the sum is wrong by ascend:2" in reduced["ascend:0"]["why"]
    assert document["next"][0].startswith("muster devices bar ascend:1 --why 'product slow")
    assert document["next"][2:] == ["muster devices unbar ascend:0"]
    assert "all-reduce of ascend:0, ascend:1, ascend:2" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_trial_outlives_the_check(tmp_path: Path, number: int, code: int) -> None:
    """Whether it is interrupted or killed outright."""
    root = rehearsal(tmp_path, 3)
    mark = str(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "devices", "check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: str(root), "TRIAL_MARK": mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    trial = "orchestrator.device_trial"
    poll(lambda: {*descendants(process.pid)} & {*mentioning(trial)}, 60, "a trial")
    process.send_signal(number)
    assert process.wait(30) == code
    poll(lambda: not marked("TRIAL_MARK", mark), 30)
