"""Leases of devices: one holder, known by its pid, and free again when it is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.device import Device, DeviceKind
from cluster.device_leases import Leases, held_by_others
from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.node import make
from cluster.simulated.rehearsal import create
from tests.runs import muster
from tests.support_core import until

HOLD = """
import sys, time
from cluster.device import Device, DeviceKind
from cluster.device_leases import Leases
devices = [Device(DeviceKind.ASCEND, "local", int(i)) for i in sys.argv[2:]]
leases = Leases()
print(leases.take(devices, sys.argv[1]), flush=True)
time.sleep(600)
"""


def devices(*ids: int) -> list[Device]:
    """Ascend devices of a node."""
    return [Device(DeviceKind.ASCEND, "here", i) for i in ids]


@pytest.fixture
def scope(tmp_path: Path) -> str:
    """A rehearsal node of this test alone."""
    return str(tmp_path)


@pytest.fixture
def holder(scope: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds devices 1 and 2."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, scope, "1", "2"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "{}\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_another_holds_cannot_be_taken(holder: subprocess.Popen[str], scope: str) -> None:
    """The other is named by its pid, and of a gang of which one is taken nothing is held."""
    told = {"here/ascend:2": f"in use by another run of muster (pid {holder.pid})"}
    mine = Leases()
    assert mine.take(devices(2, 3), scope) == told
    assert held_by_others(devices(2, 3), scope) == told
    third = Leases()
    assert third.take(devices(3), scope) == {}
    third.release()


def test_the_end_of_a_holder_frees_its_devices(holder: subprocess.Popen[str], scope: str) -> None:
    """Also after kill -9: the kernel drops the lease."""
    holder.kill()
    until(lambda: not held_by_others(devices(1, 2), scope), "the lease is dropped")
    mine = Leases()
    assert mine.take(devices(1, 2), scope) == {}
    mine.release()


def test_own_devices_are_kept_and_exchanged(scope: str) -> None:
    """Taking others gives the first back; what stays is not let go of in between."""
    mine, yours = Leases(), Leases()
    assert mine.take(devices(0, 1), scope) == {}
    assert held_by_others(devices(0, 1), scope) == {}, "one's own are not another's"
    assert mine.take(devices(1, 2), scope) == {}
    assert yours.take(devices(0), scope) == {}
    assert yours.take(devices(0, 1), scope).keys() == {"here/ascend:1"}
    assert f"(pid {os.getpid()})" in yours.take(devices(1), scope)["here/ascend:1"]
    mine.release()
    mine.release()
    assert yours.take(devices(0, 1, 2), scope) == {}
    yours.release()


def test_a_rehearsal_node_is_not_hardware(scope: str) -> None:
    """Device 0 of one node is not device 0 of another; a GPU is known by its uuid."""
    one, other = Leases(), Leases()
    assert one.take(devices(0), scope) == other.take(devices(0), scope + "/other") == {}
    first = Device(DeviceKind.GPU, "here", 0, uuid="GPU-1")
    second = Device(DeviceKind.GPU, "here", 0, uuid="GPU-2")
    assert one.take([first], scope) == {}
    third = Leases()
    assert third.take([second], scope) == {}
    assert third.take([first], scope).keys() == {"here/gpu:0"}
    for held in (one, other, third):
        held.release()


def test_devices_and_check_tell_who_holds_a_device(tmp_path: Path) -> None:
    """The list names the holder, and no trial touches what a run has."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, make("910B3", 3))
    environment = {**os.environ, VARIABLE: str(directory.root)}
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory.root), "0", "1", "2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert held.stdout is not None and held.stdout.readline() == "{}\n"
        told = f"in use by another run of muster (pid {held.pid})"
        listed = muster("devices", "--json", env=environment).json()
        assert [device["held"] for device in listed["devices"]] == [told] * 3
        assert told in muster("devices", env=environment).out
        checked = muster("devices", "check", env=environment)
        assert checked.code == 1 and f"not tried: {told}" in checked.text
    finally:
        held.kill()
        held.wait()
        held.stdout.close()
    assert muster("devices", "--json", env=environment).json()["devices"][0]["held"] is None
