"""Bars: devices kept from jobs by a person or by a rule that counts faults. Values and rules only.

A probe is one look. What matters to MindCluster's rules is how often a fault came and how long it
stayed, so looks are folded into episodes: a fault seen again by the next look is the same episode,
and only a look that did not show it ends one. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cluster.ascend.faults import ESCALATING, FAULTS
from cluster.device import Device

PERSON = "person"
"""Who set a bar that no rule did."""

_HOUR = 3600.0
_DAY = 24 * _HOUR
_KEPT = 3 * _DAY
_EPISODES_OF_ONE = 8
_EPISODES = 2048


@dataclass(frozen=True)
class Bar:
    """A device that jobs do not get, e.g. `ascend:3`.

    `until` None: until somebody lifts it, or until `rule` has seen it clean for long enough. `by`
    is PERSON or a rule's name, `code` the fault that the rule counted. A bar with a `uuid` holds
    for that card alone, not for another one in its slot.
    """

    device: str
    why: str
    since: float
    until: float | None = None
    by: str = PERSON
    code: str = ""
    uuid: str = ""

    def in_force(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.until is None or now < self.until

    def holds_for(self, device: Device) -> bool:
        """Whether this is the device; a card that does not tell its uuid is taken for it."""
        another = self.uuid and device.uuid and self.uuid != device.uuid
        return self.device == name_of(device) and not another


@dataclass(frozen=True)
class Episode:
    """One stay of a fault: the first and the last look that showed it, the first that did not."""

    device: str
    code: str
    first_seen: float
    last_seen: float
    ended: float | None = None

    @property
    def newest(self) -> float:
        """The latest look that it tells of."""
        return self.last_seen if self.ended is None else self.ended


@dataclass(frozen=True)
class Rule:
    """When faults bar a device: `times` episodes of a code within some seconds, or one that lasts.

    `lasting` is the time between the first and the last look at the present episode. `clean` is
    for how long the code must stay away to lift the bar; None: only a person lifts it.
    """

    name: str
    codes: frozenset[str]
    why: str
    times: int = 1
    within: float = _DAY
    lasting: float | None = None
    clean: float | None = None

    def met(self, episodes: Sequence[Episode], now: float) -> bool:
        """Whether the episodes of one code on one device, in their order, bar it at `now`."""
        if self.lasting is not None:
            last = episodes[-1]
            return last.ended is None and last.last_seen - last.first_seen > self.lasting
        return sum(now - self.within <= one.first_seen <= now for one in episodes) >= self.times


RULES = (
    Rule("separated-by-hand", ESCALATING, "twice in 24 h", times=2),
    Rule("separated-by-hand", frozenset({"80E18005"}), "three times in 24 h", times=3),
    Rule("link-flaps", frozenset({"81078603"}), "five times in 24 h", times=5, clean=2 * _DAY),
    Rule(
        "link-stays-down", frozenset({"81078603"}), "for more than 20 s", lasting=20.0, clean=60.0
    ),
    Rule("ecc-persists", frozenset({"80E01801"}), "for more than 30 s", lasting=30.0, clean=60.0),
)
"""MindCluster's escalations, cut to the codes of FAULTS; its file and documents of 2026.

How long 80E01801 must be away is nowhere stated: the link's 60 s are taken.
"""


def name_of(device: Device) -> str:
    """The device's name on its node, e.g. `ascend:3`."""
    return f"{device.kind.value}:{device.index}"


def observe(
    episodes: Iterable[Episode], look: Mapping[str, Collection[str]], now: float
) -> tuple[Episode, ...]:
    """The episodes after a look at `now`: the codes of each device whose codes were stated.

    A device that is not in the look stays as it was: not measured is neither there nor gone. A
    look older than what is known of a device tells nothing.
    """
    held = tuple(episodes)
    newest = _newest(held)
    told = {name: set(codes) for name, codes in look.items() if newest.get(name, now) <= now}
    followed = [_follow(one, told.get(one.device), now) for one in held]
    going_on = {(one.device, one.code) for one in followed if one.ended is None}
    begun = (
        Episode(name, code, now, now)
        for name in sorted(told)
        for code in sorted(told[name])
        if (name, code) not in going_on
    )
    return _bounded([*followed, *begun], now)


def _newest(episodes: Iterable[Episode]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in episodes:
        found[one.device] = max(one.newest, found.get(one.device, one.newest))
    return found


def _follow(episode: Episode, codes: set[str] | None, now: float) -> Episode:
    if codes is None or episode.ended is not None:
        return episode
    if episode.code in codes:
        return replace(episode, last_seen=now)
    return replace(episode, ended=now)


def _bounded(episodes: Iterable[Episode], now: float) -> tuple[Episode, ...]:
    """Without what no rule counts any more: old ones, and more of a code than any rule asks for.

    Those of a time to come are of a clock that was set back since.
    """
    recent = [one for one in episodes if now - _KEPT <= one.newest <= now + _DAY]
    kept = [one for group in _by_code(recent).values() for one in group[-_EPISODES_OF_ONE:]]
    return tuple(sorted(kept, key=lambda one: (one.first_seen, one.device, one.code))[-_EPISODES:])


def _by_code(episodes: Iterable[Episode]) -> dict[tuple[str, str], list[Episode]]:
    groups: dict[tuple[str, str], list[Episode]] = {}
    for one in sorted(episodes, key=lambda one: one.first_seen):
        groups.setdefault((one.device, one.code), []).append(one)
    return groups


def escalate(episodes: Iterable[Episode], now: float) -> tuple[Bar, ...]:
    """The bars that the rules ask for at `now`."""
    return tuple(
        _barred(rule, group[-1], now)
        for group in _by_code(episodes).values()
        for rule in RULES
        if group[-1].code in rule.codes and rule.met(group, now)
    )


def _barred(rule: Rule, last: Episode, now: float) -> Bar:
    text = FAULTS[last.code].text
    until = None if rule.clean is None or last.ended is None else last.ended + rule.clean
    return Bar(
        last.device, f"{last.code} {text}, {rule.why}", now, until, by=rule.name, code=last.code
    )


def renew(bar: Bar, look: Mapping[str, Collection[str]], now: float) -> Bar:
    """The bar after a look: the time that a fault must stay away counts from its last end."""
    rule = _rule_of(bar)
    if rule is None or rule.clean is None or bar.device not in look:
        return bar
    if bar.code in look[bar.device]:
        return replace(bar, until=None)
    return replace(bar, until=now + rule.clean) if bar.until is None else bar


def _rule_of(bar: Bar) -> Rule | None:
    named = (rule for rule in RULES if rule.name == bar.by and bar.code in rule.codes)
    return next(named, None)


def reason(bar: Bar, now: float) -> str:
    """For people, in local time: `barred until 14:00 (ECC twice)`."""
    return f"barred until {_end(bar, now)} ({bar.why})"


def reasons(bars: Iterable[Bar], now: float) -> str:
    """Those of several bars of one device."""
    return "; ".join(reason(bar, now) for bar in bars)


def _end(bar: Bar, now: float) -> str:
    if bar.until is not None:
        return clock(bar.until, now)
    rule = _rule_of(bar)
    if rule is None or rule.clean is None:
        return "unbarred"
    hours = rule.clean / _HOUR
    return "it is clean for " + (f"{hours:g} h" if hours >= 1 else f"{rule.clean:g} s")


def clock(time: float, now: float) -> str:
    """A local time of day, with the date where it is another day's."""
    local, today = datetime.fromtimestamp(time), datetime.fromtimestamp(now)
    return local.strftime("%H:%M" if local.date() == today.date() else "%Y-%m-%d %H:%M")
