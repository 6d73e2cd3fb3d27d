"""Verdicts on devices, from looks at rehearsal nodes and from trials that are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ascend.hccn import Ping, parse_gateway, parse_netdetect, parse_ping
from cluster.ascend.transcript import ping as ping_question
from cluster.ascend.transcript import port
from cluster.measured import Unmeasured
from cluster.preflight import (
    Check,
    Product,
    Reduced,
    Result,
    Verdict,
    blamed,
    judge_all_reduce,
    judge_products,
    look,
    to_bar,
    unwell,
)
from tests.simulated import ask, node, report

PASS, FAIL, UNMEASURED = Verdict.PASS, Verdict.FAIL, Verdict.UNMEASURED


def product(milliseconds: float, wrong: int = 0) -> Product:
    """A product that took so long each time."""
    return Product((milliseconds / 1000,) * 3, wrong, 100, "value 3 is 1 instead of 2")


def reduced(rank: int, arrived: float = 0.0, gave: int = 0, wrong: int = 0) -> Reduced:
    """A rank's part, `arrived` in seconds after the first."""
    return Reduced(rank, 1e9 + arrived, 0.01, gave, wrong, 100, "value 3 is 1 instead of 2")


def verdicts(results: dict[str, Result]) -> list[Verdict]:
    """The bare verdicts, in order."""
    return [result.verdict for result in results.values()]


@pytest.mark.parametrize(
    ("fault", "check", "verdict", "told"),
    [
        ("alarm:0=80E01801", Check.HEALTH, FAIL, "80E01801"),
        ("lost:0", Check.HEALTH, UNMEASURED, "lost"),
        ("warning:0=80E20207", Check.HEALTH, PASS, "80E20207"),
        ("link-down:0", Check.LINK, FAIL, "DOWN"),
        ("unreachable:0", Check.NETWORK, FAIL, "Unreachable"),
        ("foreign:0=12/python/9", Check.PROCESSES, FAIL, "python (pid 12)"),
        ("foreign:0=12/python/60000", Check.MEMORY, PASS, "GB"),
    ],
)
def test_a_look_tells(fault: str, check: Check, verdict: Verdict, told: str) -> None:
    """Each fault fails its own check, with the reason; its neighbour passes all."""
    found = report(node("910B3", 2, fault))
    results = {r.check: r for r in look("ascend:0", found.devices[0], Ping("10.0.0.1", 3, 3))}
    assert results[check].verdict is verdict and told in results[check].why
    well = look("ascend:1", found.devices[1], Ping("10.0.0.1", 3, 3))
    assert {r.verdict for r in well} == {PASS}


def test_memory_of_nobody_is_suspicious() -> None:
    """More in use than an idle device takes, and no process: told, with the amount."""
    from dataclasses import replace

    from cluster.measured import Memory

    (device,) = report(node("910B3", 1)).devices
    used = replace(device, memory=Memory(20000, 65536))
    (result,) = [r for r in look("ascend:0", used, Unmeasured("-")) if r.check is Check.MEMORY]
    assert result.verdict is FAIL and "19.5 of 64 GB" in result.why and "no process" in result.why


@pytest.mark.parametrize(
    ("sent", "received", "verdict"), [(3, 3, PASS), (3, 2, FAIL), (3, 0, FAIL), (0, 0, FAIL)]
)
def test_every_echo_must_come_back(sent: int, received: int, verdict: Verdict) -> None:
    """A lost echo fails; that there was no address to ask is not measured."""
    (device,) = report(node("910B3", 1)).devices
    results = look("ascend:0", device, Ping("10.0.0.1", sent, received))
    assert [r.verdict for r in results if r.check is Check.PING] == [verdict]
    results = look("ascend:0", device, Unmeasured("no address"))
    assert [r.verdict for r in results if r.check is Check.PING] == [UNMEASURED]


def test_what_the_simulated_tool_says_of_a_ping() -> None:
    """Its texts are read back: gateways and well peers answer, others do not."""
    here = node("910B3", 3, "link-down:1")
    addresses = [device.ip for device in here.devices]
    gateway = parse_gateway(ask(here, port("gateway", 0)).text)
    assert gateway == parse_netdetect(ask(here, port("netdetect", 0)).text) == "192.168.100.1"

    def received(device: int, address: str) -> int:
        found = parse_ping(ask(here, ping_question(device, address)).text, address)
        assert isinstance(found, Ping) and found.sent == 3
        return found.received

    assert [received(0, address) for address in addresses] == [3, 0, 3]
    assert received(0, "192.168.100.1") == 3 and received(1, "192.168.101.1") == 0
    assert received(0, "10.9.9.9") == 0


@pytest.mark.parametrize(
    "text", ["", "device 0 PING 1.2.3.4", "3 packets transmitted, 4 received", "3 packets\n" * 2]
)
def test_a_ping_without_a_count_is_not_measured(text: str) -> None:
    """Nothing is made of half an answer."""
    assert isinstance(parse_ping(text, "1.2.3.4"), Unmeasured)


def test_the_slow_one_is_named() -> None:
    """From 1.5 times the median of all; those near it pass."""
    times = {"a": 10.0, "b": 11.0, "c": 14.9, "d": 31.0, "e": 10.0}
    results = judge_products({name: product(one) for name, one in times.items()})
    assert verdicts(results) == [PASS, PASS, PASS, FAIL, PASS]
    assert "31 ms, 2.8 times the median" in results["d"].why
    assert blamed(results.values(), "slow") == ["d"] and blamed(results.values(), "wrong") == []


def test_two_devices_are_too_few_to_compare() -> None:
    """Nobody is called slow, and why is told; a third that gave no answer does not help."""
    found = {"a": product(10), "b": product(90), "c": Unmeasured("no answer in 5 s")}
    results = judge_products(found)
    assert verdicts(results) == [PASS, PASS, UNMEASURED] and "too few" in results["a"].why


def test_any_difference_is_wrong() -> None:
    """One value of many, with an example, however few devices there are."""
    results = judge_products({"a": product(10, wrong=1)})
    assert verdicts(results) == [FAIL] and "value 3 is 1 instead of 2" in results["a"].why


@given(st.dictionaries(st.text("abcdefg", min_size=1), st.floats(1, 1e4), min_size=1))
def test_at_most_half_are_slow(times: dict[str, float]) -> None:
    """Slow is against the others: never most of them, never those at the median or below."""
    results = judge_products({name: product(one) for name, one in times.items()})
    slow = blamed(results.values(), "slow")
    assert 2 * len(slow) <= len(times)
    assert all(times[name] > min(times.values()) for name in slow)


def test_who_gave_a_wrong_value_is_blamed() -> None:
    """Everybody's sum is wrong then; only the giver fails, the others name it."""
    found = {"a": reduced(0, wrong=1), "b": reduced(1, gave=1, wrong=1), "c": reduced(2, wrong=1)}
    results = judge_all_reduce(found)
    assert verdicts(results) == [PASS, FAIL, PASS] and "by b" in results["a"].why
    assert blamed(results.values(), "wrong") == ["b"]


def test_a_wrong_sum_of_well_given_values() -> None:
    """The one that got it fails: what happened on its way cannot be told."""
    results = judge_all_reduce({"a": reduced(0), "b": reduced(1, wrong=4)})
    assert verdicts(results) == [PASS, FAIL] and "though all gave well" in results["b"].why


def test_who_comes_late_is_slow() -> None:
    """Far behind the median of all ranks."""
    found = {name: reduced(place) for place, name in enumerate("abc")} | {"d": reduced(3, 12.0)}
    results = judge_all_reduce(found)
    assert blamed(results.values(), "slow") == ["d"]
    assert to_bar(results.values()) == {"d": "all-reduce slow: came 12.0 s after the others"}


def test_what_a_job_needs_must_be_measured() -> None:
    """A health or a trial that could not be told is not well; a port that was not asked may be."""
    names = {check: Result("a", check, UNMEASURED, "why") for check in Check}
    vital = [check for check in Check if unwell([names[check]])]
    assert vital == [Check.HEALTH, Check.PRODUCT, Check.ALL_REDUCE]
