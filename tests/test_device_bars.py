"""`muster devices bar` and `unbar`, and what bars do to lists and plans."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from click.testing import Result

from cluster.simulated.directory import NodeDirectory
from cluster.simulated.rehearsal import create
from tests.simulated import node
from tests.test_devices_command import JOB, muster, off_hardware


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeDirectory:
    """A node of three devices, the last of them lost."""
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 3, "lost:2"))
    return directory


def plan(ranks: int, at: Path) -> Result:
    """A plan of the Ascend job with another number of ranks."""
    words = [f"resources.{name}={ranks}" for name in ("ranks", "ranks_per_node")]
    return muster("plan", str(JOB), "--set", words[0], "--set", words[1], "--json", at=at)


def test_barring_and_giving_back(rehearsal: NodeDirectory) -> None:
    """A barred device is shown so, no plan takes it, and after unbar it is as before."""
    root = rehearsal.root
    done = muster("devices", "bar", "ascend:0", "--for", "24h", "--why", "ECC twice", at=root)
    assert done.exit_code == 0 and "muster devices unbar ascend:0" in done.stdout
    shown = muster("devices", at=root).stdout
    assert "not to be used: ascend:0: barred until " in shown and "(ECC twice)" in shown
    first, second, _ = json.loads(muster("devices", "list", "--json", at=root).stdout)["devices"]
    assert second["barred"] is None
    assert first["barred"]["until"] == pytest.approx(first["barred"]["bars"][0]["since"] + 86400)
    (rank,) = json.loads(plan(1, root).stdout)["ranks"]
    assert rank["device"] == "ascend:1"
    assert "(ECC twice)" in plan(2, root).stderr
    done = muster("devices", "unbar", "ascend:0", at=root)
    assert done.exit_code == 0 and "muster devices check ascend:0" in done.stdout
    assert plan(2, root).exit_code == 0
    assert not (root.parent / "home").exists()


def test_ill_and_barred_are_both_told(rehearsal: NodeDirectory) -> None:
    """A lost device can be barred, and a plan gives both reasons."""
    done = muster("devices", "bar", "ascend:2", "--why", "falls off the bus", at=rehearsal.root)
    assert done.exit_code == 0 and "barred until unbarred" in done.stdout
    notes = json.loads(plan(1, rehearsal.root).stdout)["notes"]
    (told,) = [text for text in notes if "ascend:2" in text]
    assert "lost" in told and "(falls off the bus)" in told


def test_all_mistakes_at_once_and_nothing_is_barred(rehearsal: NodeDirectory) -> None:
    """Bad names, a bad time and no reason are told together; so are devices of other nodes."""
    arguments = ("bar", "ascend:0", "ascend:x", "gpu:0", "--for", "3w", "--why", " ")
    done = muster("devices", *arguments, at=rehearsal.root)
    assert done.exit_code == 2
    for word in ("ascend:x", "one kind", "--for 3w", "--why"):
        assert word in done.stderr
    done = muster("devices", "bar", "ascend:0", "ascend:8", "--why", "x", at=rehearsal.root)
    assert done.exit_code == 2 and "ascend:8: not on this node" in done.stderr
    assert not (rehearsal.root / "devices.json").exists()


def test_unbarring_what_is_not_barred(rehearsal: NodeDirectory) -> None:
    """Exit 3, and the barred one beside it stays barred."""
    muster("devices", "bar", "ascend:0", "--why", "x", at=rehearsal.root)
    done = muster("devices", "unbar", "ascend:0", "ascend:1", at=rehearsal.root)
    assert done.exit_code == 3 and "ascend:1: not barred; barred are: ascend:0" in done.stderr
    assert muster("devices", "unbar", "ascend:0", "--json", at=rehearsal.root).exit_code == 0


def test_a_fault_that_returns_bars_its_device(rehearsal: NodeDirectory) -> None:
    """Looks of plans and lists are recorded: the second ECC keeps the device from jobs."""
    root = rehearsal.root
    for faults in (("--fault", "alarm:0=80DE1801"), ("--clear", "alarm"), ()):
        muster("devices", "simulate", "--dir", str(root), *faults)
        muster("devices", at=root)
    assert plan(2, root).exit_code == 0
    muster("devices", "simulate", "--dir", str(root), "--fault", "alarm:0=80DE1801")
    assert plan(2, root).exit_code == 1
    muster("devices", "simulate", "--dir", str(root), "--clear", "alarm")
    refused = plan(2, root)
    assert refused.exit_code == 1 and "80DE1801 DDR multi-bit ECC, twice in 24 h" in refused.stderr


def test_a_damaged_book_frees_nothing(rehearsal: NodeDirectory) -> None:
    """No device is given away, and everybody names the file."""
    (rehearsal.root / "devices.json").write_text("{")
    refused = plan(1, rehearsal.root)
    assert refused.exit_code == 1 and "devices.json" in refused.stderr
    assert muster("devices", at=rehearsal.root).exit_code == 1
    for command in (("bar", "ascend:0", "--why", "x"), ("unbar", "ascend:0")):
        done = muster("devices", *command, at=rehearsal.root)
        assert done.exit_code == 1 and "move it away" in done.stderr


@off_hardware
def test_where_nothing_can_be_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is barred on a person's word, and that it was not looked for is told."""
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    done = muster("devices", "bar", "ascend:5", "--why", "x")
    assert done.exit_code == 0 and "not looked for: npu-smi was not found" in done.stderr
    assert json.loads((tmp_path / "home" / "devices.json").read_text())["bars"]


def test_a_full_disk_is_told_with_the_file(
    rehearsal: NodeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel says of a write names no file: the book's is named."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("orchestrator.device_book.write_json", full)
    done = muster("devices", "bar", "ascend:0", "--why", "noisy", at=rehearsal.root)
    assert done.exit_code == 1
    assert done.stderr == f"{rehearsal.root / 'devices.json'}: No space left on device\n"
