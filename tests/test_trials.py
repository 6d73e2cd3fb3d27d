"""Trials of devices, with processes that stand in for those which would import MindSpore."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster.device import Device, DeviceKind
from cluster.measured import Unmeasured
from cluster.preflight import Product, Reduced
from orchestrator import trials
from orchestrator.processes import marked
from orchestrator.trials import Subject

STAND_IN = """
import json, os, sys, time
order = json.loads(os.environ["MUSTER_TRIAL"])
say = lambda document: print(json.dumps(document), flush=True)
print("not a document of ours", flush=True)
say({"phase": "it started"})
way = os.environ.get("WAY_" + str(order["device_id"]), "well")
if order["role"] == "scheduler":
    way = os.environ.get("WAY_SCHEDULER", "hang")
if way == "hang":
    time.sleep(600)
if way == "crash":
    sys.exit("the device fell off the bus")
if way == "nonsense":
    say({"schmimes": 1})
elif order["role"] == "product":
    say({"times": [1.0, 2.0], "wrong": 0, "of": 9, "example": ""})
else:
    say({"rank": int(os.environ["RANK_ID"]), "arrived": 1.0, "took": 1.0, "gave_wrong": 0,
         "wrong": 0, "of": 9, "example": os.environ["MS_WORKER_NUM"]})
    time.sleep(600)
"""
FOUND = Product((1.0, 2.0), 0, 9)


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials run the stand-in."""
    (tmp_path / "trial.py").write_text(STAND_IN)
    monkeypatch.setattr(trials, "PROGRAM", (sys.executable, "-S", str(tmp_path / "trial.py")))


def subjects(count: int) -> list[Subject]:
    """Devices of a rehearsal node."""
    devices = [Device(DeviceKind.ASCEND, "a", index) for index in range(count)]
    return [Subject(f"ascend:{d.index}", d, simulated=True) for d in devices]


def environment(**ways: str) -> dict[str, str]:
    """An environment that trials can be found by, with what each is to do."""
    return {"PATH": os.environ["PATH"], "TRIAL_MARK": "here", **ways}


def products(ways: dict[str, str], *, count: int = 3, timeout: float = 30.0) -> dict:
    """What products gave; nothing is left of them."""
    said: list[str] = []
    found = trials.products(
        subjects(count), environment(**ways), (0,), at_once=2, timeout=timeout, say=said.append
    )
    assert said[0] == "matrix product on ascend:0, ascend:1 (2 of 3)"
    assert marked("TRIAL_MARK", "here") == []
    return found


def test_every_device_answers() -> None:
    """One result each, in groups, and nothing is left."""
    assert products({}) == {f"ascend:{number}": FOUND for number in range(3)}


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("crash", "the trial ended without a result (exit 1): the device fell off the bus"),
        ("hang", "no answer in 2 s; it started"),
        ("nonsense", "the trial's answer makes no sense"),
    ],
)
def test_a_device_that_does_not_answer(way: str, why: str) -> None:
    """Not measured, with the reason; those beside it are, and what hangs is killed."""
    found = products({"WAY_1": way}, timeout=2.0)
    assert found["ascend:1"] == Unmeasured(why)
    assert found["ascend:0"] == found["ascend:2"] == FOUND


def all_reduce(ways: dict[str, str], timeout: float = 30.0) -> dict:
    """What an all-reduce gave; nothing is left of it."""
    found = trials.all_reduce(
        subjects(3), environment(**ways), timeout=timeout, say=lambda text: None
    )
    assert marked("TRIAL_MARK", "here") == []
    return found


def test_a_gang_answers_and_is_ended() -> None:
    """Each rank knows its place and the size; ranks that linger for their peers are ended."""
    found = all_reduce({})
    assert [one.rank for one in found.values()] == [0, 1, 2]
    assert all(isinstance(one, Reduced) and one.example == "3" for one in found.values())


def test_a_rank_that_fails_ends_the_wait() -> None:
    """Its peers would wait for ever: given up at once, and who failed is told."""
    found = all_reduce({"WAY_1": "crash", "WAY_2": "hang"}, timeout=60.0)
    assert "fell off the bus" in found["ascend:1"].why
    assert found["ascend:2"].why.startswith("given up because ascend:1 failed")


def test_a_scheduler_that_fails_is_told() -> None:
    """No device is blamed for it."""
    ways = {f"WAY_{number}": "hang" for number in range(3)} | {"WAY_SCHEDULER": "crash"}
    for one in all_reduce(ways, timeout=60.0).values():
        assert "because scheduler failed" in one.why and "fell off the bus" in one.why


def test_devices_on_hardware_see_those_on_trial_alone() -> None:
    """The variable lists them ascending, and each finds itself at its place; a rehearsal has none.

    Ray's and MindSpore's variables of the user do not reach a trial.
    """
    devices = [Device(DeviceKind.ASCEND, "a", index, logical=index - 4) for index in (7, 5)]
    hardware = [Subject(f"ascend:{d.index}", d) for d in devices]
    made = trials._environment(hardware, {"MS_ROLE": "x", "ASCEND_RT_VISIBLE_DEVICES": "0"})
    assert made["ASCEND_RT_VISIBLE_DEVICES"] == "1,3" and "MS_ROLE" not in made
    assert [trials._order(one, hardware, "product").device_id for one in hardware] == [1, 0]
    assert trials._order(hardware[0], hardware, "product").target == "Ascend"
    rehearsed = subjects(2)
    assert "ASCEND_RT_VISIBLE_DEVICES" not in trials._environment(rehearsed, {})
    assert trials._order(rehearsed[0], rehearsed, "product").target == "CPU"


@pytest.mark.parametrize(
    ("cpus", "memory", "expected"), [(2, 20.0, 2), (16, 2.0, 3), (4, 0.1, 1), (0, 9.0, 1)]
)
def test_as_many_side_by_side_as_have_room(cpus: int, memory: float, expected: int) -> None:
    """Bounded by CPUs and by memory, and always one."""
    assert trials.width(range(cpus), memory) == expected
