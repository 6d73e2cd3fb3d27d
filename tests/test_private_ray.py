"""Holding a placement's devices: asked for once, refused with a reason, never waited for blindly.

The keeper is the real one; the driver behind it is a script that answers without a Ray.
"""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.allocate import Placement, Request, allocate
from cluster.cpu import CpuBudget
from cluster.device import Device, DeviceKind, Inventory, Node
from cluster.ray_client import Start
from cluster.reservation import resources_of
from orchestrator.job_ray import NodeError
from orchestrator.layout import RunDirectory, Spool
from orchestrator.link import Message
from orchestrator.private_ray import PrivateRay
from tests.runs import poll

DRIVER = """
import json, os, sys
config = json.loads(sys.stdin.readline())
log = open({log!r}, "a", buffering=1)
log.write(json.dumps({{**config, "do": "begin"}}) + "\\n")
up = {{"address": "", "resources": {{}}, "seconds": {{}}, "pids": {{"driver": [os.getpid()]}}}}
print(json.dumps({{"event": "up", **up}}), flush=True)
process = {{"pid": 1, "start_time": 1, "boot_id": ""}}
ready = {{"node": "n", "address": "a", "node_id": "i", "supervisor": process, "seconds": {{}}}}
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "stop":
        break
    log.write(line)
    def say(**event):
        print(json.dumps({{**event, "do": request["do"], "job": request["job"]}}), flush=True)
    if request["do"] == "start":
        say(event="ready", **ready)
        continue
    match {mood!r}:
        case "willing":
            say(event="reserved", seconds=0.1)
        case "dying" if request.get("anew"):
            say(event="reserved", seconds=0.1)
        case "refusing":
            say(event="unreserved", reason="others hold them")
        case "dying":
            sys.exit(1)
        case "killing":
            os.kill(os.getppid(), 9)
            sys.exit(1)
"""

NODE = Node(
    "local",
    "127.0.0.1",
    CpuBudget((0, 1), None),
    tuple(Device(DeviceKind.ASCEND, "local", index) for index in range(4)),
)
BARRED = {"local/ascend:3": "ECC"}


def on(ranks: int, *withheld: int) -> Placement:
    """Ranks on the first devices that are not withheld."""
    keys = {f"local/ascend:{index}": "barred" for index in withheld}
    placement = allocate(Inventory((NODE,)), Request(DeviceKind.ASCEND, ranks, withheld=keys))
    assert isinstance(placement, Placement)
    return placement


@dataclass
class Here:
    """A private Ray with a driver of a certain mood, and what came of it."""

    ray: PrivateRay
    log: Path
    messages: list[Message] = field(default_factory=list)
    pumped: int = 0

    def pump(self, timeout: float) -> None:
        """As the controller does: take what arrives, wait no longer than told."""
        self.pumped += 1
        if select.select([self.ray], [], [], timeout)[0]:
            self.messages += self.ray.messages(supervised=True)

    def await_message(self, kind: str) -> Message:
        """The first message of a kind."""

        def arrived() -> Message | None:
            self.pump(0.1)
            return next((m for m in self.messages if m["event"] == kind), None)

        found: Message = poll(arrived, 20, kind)
        return found

    def asked(self) -> list[dict[str, Any]]:
        """What the driver was asked to do."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


Start_ = Callable[[str], Here]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start_]:
    """Starts a Ray whose driver has the mood given."""
    rays: list[PrivateRay] = []

    def start(mood: str) -> Here:
        log = tmp_path / "asked"
        driver = [sys.executable, "-c", DRIVER.format(log=str(log), mood=mood)]
        keeper = f"from cluster.ray_keeper import Keeper; Keeper({driver!r}).serve()"
        monkeypatch.setattr("cluster.ray_client._PROGRAM", ("-c", keeper))
        ray = PrivateRay(
            job="held",
            directory=RunDirectory(tmp_path),
            spool=Spool(tmp_path, tmp_path / "ray"),
        )
        rays.append(ray)
        supervisor = Start(("true",), {}, "/", str(tmp_path / "log"))
        ray.start(supervisor, resources_of(NODE, BARRED), simulated=False)
        here = Here(ray, log)
        here.await_message("ray_ready")
        return here

    yield start
    for ray in rays:
        ray.close()


def test_the_same_devices_are_asked_for_once(started: Start_) -> None:
    """A recovery on the same devices waits for nothing; other devices are another request."""
    here = started("willing")
    here.ray.reserve(on(2), here.pump)
    note = here.await_message("note")
    assert note["seconds"] == {"reserve": 0.1}
    before = here.pumped
    here.ray.reserve(on(2), here.pump)
    assert here.pumped == before
    here.ray.reserve(on(2, 0), here.pump)
    asked = [one["bundles"] for one in here.asked() if one["do"] == "reserve"]
    names = [sorted(set().union(*one) - {"CPU", "NPU"}) for one in asked]
    assert names == [["muster_ascend_0", "muster_ascend_1"], ["muster_ascend_1", "muster_ascend_2"]]


def test_a_device_that_is_well_again_is_reserved_in_a_new_ray(started: Start_) -> None:
    """It was not offered at first; the Ray that offers it starts no second supervisor."""
    here = started("willing")
    here.ray.reserve(on(4), here.pump)
    first, _, second, reserve = here.asked()
    assert (first["resources"]["NPU"], "muster_ascend_3" in first["resources"]) == (3, False)
    assert (second["resources"]["NPU"], second["resources"]["muster_ascend_3"]) == (4, 1)
    assert (reserve["do"], len(reserve["bundles"])) == ("reserve", 4)


def test_devices_that_others_hold_are_an_error_with_its_reason(started: Start_) -> None:
    """NodeError says what Ray says; the next attempt asks again."""
    here = started("refusing")
    for _ in range(2):
        with pytest.raises(NodeError, match="others hold them"):
            here.ray.reserve(on(2), here.pump)
    assert [one["do"] for one in here.asked()] == ["begin", "start", "reserve", "reserve"]


def test_a_silent_ray_is_waited_for_only_so_long(started: Start_) -> None:
    """The controller's loop turns while it waits, and the time-out is an error."""
    here = started("silent")
    before = here.pumped
    with pytest.raises(NodeError, match="no answer in time"):
        here.ray.reserve(on(2), here.pump, timeout=0.3)
    assert here.pumped > before


def test_a_ray_that_dies_meanwhile_stops_nobody(started: Start_) -> None:
    """Ranks can go on without it; the next Ray is told what to hold before it starts anything."""
    here = started("dying")
    here.ray.reserve(on(2), here.pump)
    here.await_message("ray_lost")
    note = here.await_message("note")
    assert "Ray does not hold the devices" in note["text"]
    here.ray.reserve(on(1, 0), here.pump)
    here.messages.clear()
    here.ray.start_supervisor(Start(("true",), {}, "/", "log"))
    here.await_message("ray_ready")
    begin, reserve, start = here.asked()[-3:]
    assert [begin["do"], reserve["do"], start["do"]] == ["begin", "reserve", "start"]
    assert [list(bundle) for bundle in reserve["bundles"]] == [["CPU", "NPU", "muster_ascend_1"]]


def test_without_anybody_to_ask_it_is_not_waited(started: Start_) -> None:
    """When the keeper is gone for good the ranks go on, and only a start fails."""
    here = started("killing")
    here.ray.reserve(on(2), here.pump)
    assert "keeper ended" in here.await_message("ray_lost")["text"]
    here.ray.reserve(on(1), here.pump)
    with pytest.raises(NodeError, match="gone for good"):
        here.ray.start_supervisor(Start(("true",), {}, "/", "log"))
