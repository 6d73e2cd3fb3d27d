"""What a pre-flight makes of looks and trials: a verdict for each device and check. Pure.

What could not be measured is a verdict of its own, never a pass. Only a trial can tell that a
device is slow or computes wrongly; a look tells the rest.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cluster.ascend.hccn import Ping
from cluster.ascend.report import DeviceReport
from cluster.ascend.values import Link, NetHealth, Process
from cluster.gpu.report import GpuReport
from cluster.gpu.values import GpuProcess
from cluster.measured import Measured, Memory, Unmeasured

SLOW = 1.5
"""A device is slow from this many times the median of all devices' times."""

ENOUGH_TO_COMPARE = 3
"""Of two devices nobody can say which is the slow one."""

LATE_SECONDS = 10.0
"""A rank is late from so many seconds behind the median of all ranks."""

_Processes: TypeAlias = Sequence[Process | GpuProcess]

_REASON = 120


class Verdict(enum.Enum):
    """What is said of one check of one device."""

    PASS = "pass"
    FAIL = "fail"
    UNMEASURED = "not measured"


class Check(enum.Enum):
    """What is checked, in the order of the table."""

    HEALTH = "health"
    LINK = "link"
    NETWORK = "network"
    PING = "ping"
    MEMORY = "memory"
    PROCESSES = "processes"
    BARRED = "barred"
    PRODUCT = "product"
    ALL_REDUCE = "all-reduce"


@dataclass(frozen=True)
class Result:
    """The verdict on one device in one check; a pass may have something to tell too."""

    device: str
    check: Check
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Product:
    """A matrix product done several times: seconds of each, wrong values of how many."""

    times: tuple[float, ...]
    wrong: int
    of: int
    example: str = ""

    @property
    def typical(self) -> float:
        return statistics.median(self.times)


@dataclass(frozen=True)
class Reduced:
    """A rank's part in an all-reduce: when it came (Unix seconds), what it gave, what it got."""

    rank: int
    arrived: float
    took: float
    gave_wrong: int
    wrong: int
    of: int
    example: str = ""


def passed(device: str, check: Check, why: str = "") -> Result:
    """A pass."""
    return Result(device, check, Verdict.PASS, why)


def failed(device: str, check: Check, why: str) -> Result:
    """A failure, with its reason."""
    return Result(device, check, Verdict.FAIL, why)


def unmeasured(device: str, check: Check, why: str) -> Result:
    """What could not be found out, with the reason."""
    return Result(device, check, Verdict.UNMEASURED, why)


def look(name: str, report: DeviceReport, ping: Measured[Ping]) -> list[Result]:
    """What the probe of an Ascend device tells."""
    return [
        _health(name, report),
        _link(name, report.link),
        _network(name, report.net_health),
        _ping(name, ping),
        _memory(name, report.memory, report.processes),
        _processes(name, report.processes),
    ]


def look_at_gpu(name: str, report: GpuReport) -> list[Result]:
    """What the probe of a GPU tells."""
    verdict, gpu = report.verdict, report.gpu
    told = verdict.why or "; ".join(verdict.concerns)
    return [
        passed(name, Check.HEALTH, told) if verdict.usable else failed(name, Check.HEALTH, told),
        _memory(name, gpu.memory, gpu.processes),
        _processes(name, gpu.processes),
    ]


def barred(name: str, why: str) -> Result:
    """Whether a bar keeps the device from jobs; `why` empty: none does."""
    return failed(name, Check.BARRED, why) if why else passed(name, Check.BARRED)


def _health(name: str, report: DeviceReport) -> Result:
    if report.usable:
        return passed(name, Check.HEALTH, report.why)
    if isinstance(report.health, Unmeasured):
        return unmeasured(name, Check.HEALTH, report.why)
    return failed(name, Check.HEALTH, report.why)


def _link(name: str, link: Measured[Link]) -> Result:
    if isinstance(link, Unmeasured):
        return unmeasured(name, Check.LINK, link.why)
    return passed(name, Check.LINK) if link is Link.UP else failed(name, Check.LINK, "link DOWN")


def _network(name: str, net: Measured[NetHealth]) -> Result:
    if isinstance(net, Unmeasured):
        return unmeasured(name, Check.NETWORK, net.why)
    if net is NetHealth.INIT:
        return unmeasured(name, Check.NETWORK, "Init: the device has not checked it yet")
    if net.well:
        return passed(name, Check.NETWORK)
    return failed(name, Check.NETWORK, f"network {net.value}")


def _ping(name: str, ping: Measured[Ping]) -> Result:
    if isinstance(ping, Unmeasured):
        return unmeasured(name, Check.PING, ping.why)
    if ping.sent and ping.received == ping.sent:
        return passed(name, Check.PING, f"{ping.address} answers")
    return failed(
        name, Check.PING, f"{ping.received} of {ping.sent} echoes from {ping.address} came back"
    )


def _memory(name: str, memory: Measured[Memory], processes: Measured[_Processes]) -> Result:
    """Memory that is in use while no process is listed: leftovers, or somebody unseen."""
    if isinstance(memory, Unmeasured):
        return unmeasured(name, Check.MEMORY, memory.why)
    told = str(memory)
    if memory.free or processes:
        return passed(name, Check.MEMORY, told)
    return failed(
        name,
        Check.MEMORY,
        f"{told} and no process is listed: what a killed one left, or one of another container",
    )


def _processes(name: str, held: Measured[_Processes]) -> Result:
    if isinstance(held, Unmeasured):
        return unmeasured(name, Check.PROCESSES, held.why)
    if not held:
        return passed(name, Check.PROCESSES)
    who = ", ".join(f"{one.name or 'a process'} (pid {one.pid})" for one in held)
    return failed(name, Check.PROCESSES, f"in use by {who}")


def judge_products(
    found: Mapping[str, Measured[Product]], *, slow: float = SLOW
) -> dict[str, Result]:
    """Which devices compute wrongly or more slowly than the others, by name."""
    done = {name: one for name, one in found.items() if isinstance(one, Product)}
    usual = statistics.median([one.typical for one in done.values()]) if done else 0.0
    compared = len(done) >= ENOUGH_TO_COMPARE
    return {
        name: unmeasured(name, Check.PRODUCT, one.why)
        if isinstance(one, Unmeasured)
        else _product(name, one, usual, slow if compared else None)
        for name, one in found.items()
    }


def _product(name: str, one: Product, usual: float, slow: float | None) -> Result:
    told = [f"{1000 * one.typical:.3g} ms"]
    wrong = f"wrong: {one.wrong} of {one.of} values, {one.example}"
    late = f"slow: {1000 * one.typical:.3g} ms, {one.typical / usual:.1f} times the median"
    is_slow = slow is not None and one.typical > slow * usual
    faults = [text for bad, text in ((one.wrong > 0, wrong), (is_slow, late)) if bad]
    if faults:
        return failed(name, Check.PRODUCT, "; ".join(faults))
    if slow is None:
        told.append(f"too few devices to compare, {ENOUGH_TO_COMPARE} are needed")
    return passed(name, Check.PRODUCT, ", ".join(told))


def judge_all_reduce(found: Mapping[str, Measured[Reduced]]) -> dict[str, Result]:
    """Which devices gave something wrong, came late or got a wrong sum though all gave well.

    A wrong contribution spoils everybody's sum: then only those that gave it are blamed.
    """
    done = {name: one for name, one in found.items() if isinstance(one, Reduced)}
    usual = statistics.median([one.arrived for one in done.values()]) if done else 0.0
    culprits = [name for name, one in done.items() if one.gave_wrong]
    return {
        name: unmeasured(name, Check.ALL_REDUCE, one.why)
        if isinstance(one, Unmeasured)
        else _reduced(name, one, one.arrived - usual, culprits)
        for name, one in found.items()
    }


def _reduced(name: str, one: Reduced, behind: float, culprits: Iterable[str]) -> Result:
    blamed = list(culprits)
    faults = []
    if one.gave_wrong:
        faults.append(f"wrong: gave {one.gave_wrong} wrong values of {one.of}")
    elif one.wrong and not blamed:
        faults.append(f"wrong: {one.wrong} of {one.of} sums, {one.example}, though all gave well")
    if behind > LATE_SECONDS:
        faults.append(f"slow: came {behind:.1f} s after the others")
    if faults:
        return failed(name, Check.ALL_REDUCE, "; ".join(faults))
    if one.wrong:
        return passed(name, Check.ALL_REDUCE, f"the sum is wrong by {', '.join(blamed)}")
    return passed(name, Check.ALL_REDUCE, f"{1000 * one.took:.3g} ms")


def blamed(results: Iterable[Result], word: str) -> list[str]:
    """The devices of which a trial says `slow` or `wrong`, in the order of the results."""
    told = (r for r in results if r.check in (Check.PRODUCT, Check.ALL_REDUCE))
    names = (r.device for r in told if r.verdict is Verdict.FAIL and f"{word}:" in r.why)
    return list(dict.fromkeys(names))


def unwell(results: Iterable[Result]) -> list[str]:
    """The devices that are not well: something failed, or what a job needs could not be told.

    A port that was not measured is told and does not count: a job on one server does without.
    """
    vital = (Check.HEALTH, Check.PRODUCT, Check.ALL_REDUCE)
    names = (
        r.device
        for r in results
        if r.verdict is Verdict.FAIL or (r.verdict is Verdict.UNMEASURED and r.check in vital)
    )
    return list(dict.fromkeys(names))


def to_bar(results: Iterable[Result]) -> dict[str, str]:
    """The devices that failed a trial, each with a reason to bar it.

    Others need no bar: what a look calls ill is withheld from jobs as long as it is.
    """
    told = (r for r in results if r.check in (Check.PRODUCT, Check.ALL_REDUCE))
    found: dict[str, str] = {}
    for result in told:
        if result.verdict is Verdict.FAIL:
            found.setdefault(result.device, f"{result.check.value} {result.why}"[:_REASON])
    return found
