"""Which devices a pre-flight may touch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster import preflight
from cluster.ascend.hccn import Ping
from cluster.ascend.report import DeviceReport
from cluster.measured import Memory, Unmeasured
from cluster.preflight import Verdict
from orchestrator.checkup import _kept_out
from tests.gpus import GB, bare, well
from tests.gpus import report as report_of_gpus
from tests.simulated import node, report


def kept_out(device: DeviceReport) -> str:
    """Why it is not tried, after a look."""
    return _kept_out(device, preflight.look("ascend:0", device, Ping("10.0.0.1", 3, 0)))


def test_a_device_is_tried_if_nobody_may_be_using_it() -> None:
    """One that is well and idle is, and neither its network nor a bar matters for that."""
    (device,) = report(node("910B3", 1, "link-down:0")).devices
    assert kept_out(device) == ""


@pytest.mark.parametrize("fault", ["alarm:0=80E01801", "lost:0", "unknown:0", "foreign:0"])
def test_who_is_ill_or_in_use_is_left_alone(fault: str) -> None:
    """With the reason that a plan would give."""
    (device,) = report(node("910B3", 1, fault)).devices
    assert kept_out(device) == device.withheld != ""


@pytest.mark.parametrize(
    "changed",
    [
        {"memory": Memory(60000, 65536)},
        {"memory": Unmeasured("no figure")},
        {"processes": Unmeasured("no table")},
        {"logical": Unmeasured("no id")},
    ],
)
def test_who_may_be_in_use_is_left_alone(changed: dict) -> None:
    """Memory of nobody, or what could not be measured: a job of another container may be there."""
    (device,) = report(node("910B3", 1)).devices
    assert device.withheld == "" and kept_out(replace(device, **changed))


def test_what_the_variable_leaves_out_is_left_alone() -> None:
    """Its user has said which devices are theirs."""
    devices = report(node("910B3", 2), {"ASCEND_RT_VISIBLE_DEVICES": "1"}).devices
    assert [bool(kept_out(device)) for device in devices] == [True, False]


def test_a_gpu_is_looked_at_too() -> None:
    """Its errors, memory of nobody, and processes; what it does not offer is not measured."""
    told = [
        {
            result.check.value: result.verdict
            for result in preflight.look_at_gpu("gpu:0", one)
            if result.verdict is not Verdict.PASS
        }
        for one in report_of_gpus(
            [
                well(0),
                well(1, memory=[40 * GB, 141 * GB]),
                well(2, uncorrected=3),
                well(3, memory=[40 * GB, 141 * GB], compute=[[71, 40 * GB]]),
                bare(4),
            ]
        ).devices
    ]
    unknown = dict.fromkeys(("memory", "processes"), Verdict.UNMEASURED)
    fail = Verdict.FAIL
    assert told == [{}, {"memory": fail}, {"health": fail}, {"processes": fail}, unknown]
