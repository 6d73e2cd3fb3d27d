"""Bars and the rules that set them, on looks that are made up."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ascend.faults import ESCALATING, FAULTS
from cluster.bars import RULES, Bar, Episode, escalate, name_of, observe, reason, renew
from cluster.device import Device, DeviceKind

HOUR = 3600.0
START = 1_000_000.0
ECC, PARITY, LINK = "80DE1801", "80E18005", "81078603"
CODES = [ECC, PARITY, LINK, "80E01801", "80C98009", "12345678"]

looks = st.lists(
    st.tuples(
        st.floats(0, 20 * HOUR),
        st.dictionaries(
            st.sampled_from(["ascend:0", "ascend:1"]), st.sets(st.sampled_from(CODES)), max_size=2
        ),
    ),
    max_size=12,
)


def after(*seen: tuple[float, dict[str, set[str]]]) -> tuple[Episode, ...]:
    """The episodes after some looks, their times in seconds from the start."""
    episodes: tuple[Episode, ...] = ()
    for at, look in seen:
        episodes = observe(episodes, look, START + at)
    return episodes


def times(code: str, count: int, every: float) -> tuple[Episode, ...]:
    """Episodes of a fault that comes and goes."""
    pairs = [
        (n * every + gone, {"ascend:0": set() if gone else {code}})
        for n in range(count)
        for gone in (0, 1)
    ]
    return after(*pairs)


def test_the_rules_know_their_codes() -> None:
    """Every code that a rule counts has a text to tell."""
    assert FAULTS.keys() >= ESCALATING
    assert all(FAULTS.keys() >= rule.codes for rule in RULES)


@pytest.mark.parametrize(("code", "count"), [(ECC, 2), (PARITY, 3), (LINK, 5)])
def test_a_fault_that_comes_back_bars(code: str, count: int) -> None:
    """At the stated number of episodes within 24 h, not at one less, not if they lie apart."""
    now = START + count * HOUR
    assert escalate(times(code, count - 1, HOUR), now) == ()
    (bar,) = escalate(times(code, count, HOUR), now)
    assert (bar.device, bar.code) == ("ascend:0", code) and code in bar.why
    assert escalate(times(code, count, 25 * HOUR), START + count * 25 * HOUR) == ()


@given(st.lists(st.floats(0, 20 * HOUR), min_size=1, max_size=30), st.sampled_from(CODES))
def test_the_same_fault_seen_again_is_not_another(at: list[float], code: str) -> None:
    """However many looks show it without a break, it counts once."""
    episodes = after(*((time, {"ascend:0": {code}}) for time in sorted(at)))
    assert len(episodes) == 1
    counted = [rule.name for rule in RULES if rule.times > 1]
    assert not [bar for bar in escalate(episodes, START + max(at)) if bar.by in counted]


@given(st.sets(st.sampled_from(CODES)))
def test_nothing_bars_on_first_sight(codes: set[str]) -> None:
    """One look is never enough."""
    assert escalate(after((0, {"ascend:0": codes})), START) == ()


@given(looks, st.randoms(use_true_random=False))
def test_a_look_of_before_tells_nothing(seen: list, shuffle: random.Random) -> None:
    """Looks that come late change nothing: only those in order count."""
    told = list(seen)
    shuffle.shuffle(told)
    newest: dict[str, float] = {}
    episodes: tuple[Episode, ...] = ()
    for at, look in told:
        before = episodes
        episodes = observe(episodes, look, START + at)
        for name in look:
            if START + at < newest.get(name, 0.0):
                assert {e for e in episodes if e.device == name} == {
                    e for e in before if e.device == name
                }
        for one in episodes:
            newest[one.device] = max(one.newest, newest.get(one.device, 0.0))
            assert one.first_seen <= one.last_seen <= one.newest


@given(looks)
def test_devices_do_not_touch_each_other(seen: list) -> None:
    """What is known of a device is the same whatever the looks say of another."""
    ordered = sorted(seen, key=lambda pair: pair[0])
    alone = [(at, {n: c for n, c in look.items() if n == "ascend:0"}) for at, look in ordered]
    here = [one for one in after(*ordered) if one.device == "ascend:0"]
    assert here == [one for one in after(*alone) if one.device == "ascend:0"]


def test_a_device_that_was_not_measured_stays_as_it_was() -> None:
    """A look without it neither ends a fault nor begins one."""
    assert after((0, {"ascend:0": {ECC}}), (60, {})) == after((0, {"ascend:0": {ECC}}))


@pytest.mark.parametrize(("code", "lasting"), [(LINK, 20), ("80E01801", 30)])
def test_a_fault_that_lasts_bars_while_it_does(code: str, lasting: float) -> None:
    """Longer than its limit by two looks; lifted once it has been away for a minute."""
    short = after((0, {"ascend:0": {code}}), (lasting, {"ascend:0": {code}}))
    assert escalate(short, START + lasting) == ()
    long = after((0, {"ascend:0": {code}}), (lasting + 1, {"ascend:0": {code}}))
    (bar,) = escalate(long, START + lasting + 1)
    assert bar.until is None and bar.in_force(START + 10 * HOUR)
    gone = renew(bar, {"ascend:0": ()}, START + 100)
    assert gone.until == START + 160 and not gone.in_force(START + 160)
    assert renew(gone, {"ascend:0": ()}, START + 130) == gone
    assert renew(gone, {"ascend:0": [code]}, START + 130).until is None


def test_no_rule_lifts_what_is_barred_by_hand() -> None:
    """ECC twice stays barred, however clean later looks are; so does a person's bar."""
    (bar,) = escalate(times(ECC, 2, HOUR), START + HOUR)
    assert renew(bar, {"ascend:0": ()}, START + 900 * HOUR) == bar
    own = Bar("ascend:0", "noisy", START)
    assert renew(own, {"ascend:0": ()}, START + 900 * HOUR) == own


def test_flapping_links_are_released_after_two_days() -> None:
    """48 h from the last time it was down."""
    bars = escalate(times(LINK, 5, HOUR), START + 4 * HOUR + 1)
    assert [bar.until for bar in bars] == [START + 4 * HOUR + 1 + 48 * HOUR]


@given(looks)
def test_what_is_remembered_is_bounded(seen: list) -> None:
    """Never more episodes of one code than rules count, and none that is over for long."""
    episodes = after(*sorted(seen * 20, key=lambda pair: pair[0]))
    counts = [sum((o.device, o.code) == (e.device, e.code) for o in episodes) for e in episodes]
    assert all(count <= 8 for count in counts)
    assert observe(episodes, {}, START + 1000 * HOUR) == ()


def test_a_bar_is_of_a_card() -> None:
    """Another card in the slot is not barred; one that tells no uuid is taken for the same."""
    card = Device(DeviceKind.GPU, "a", 0, uuid="GPU-1")
    bar = Bar(name_of(card), "Xid 79", START, uuid="GPU-1")
    assert bar.holds_for(card) and bar.holds_for(replace(card, uuid=None))
    assert not bar.holds_for(replace(card, uuid="GPU-2"))
    assert not bar.holds_for(replace(card, index=1, uuid=None))


def test_a_reason_people_understand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day, the date with it where it is another, or what ends the bar."""
    noon = 1_795_435_200.0
    bar = Bar("ascend:3", "ECC twice", noon, noon + HOUR)
    assert reason(bar, noon).startswith("barred until ") and reason(bar, noon).endswith(
        ":00 (ECC twice)"
    )
    assert "-" not in reason(bar, noon) and "-" in reason(bar, noon - 48 * HOUR)
    assert reason(replace(bar, until=None), noon) == "barred until unbarred (ECC twice)"
    flaps = replace(bar, until=None, by="link-flaps", code=LINK)
    assert reason(flaps, noon) == "barred until it is clean for 48 h (ECC twice)"
