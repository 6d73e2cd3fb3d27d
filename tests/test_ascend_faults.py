"""Fault levels: which state of a device permits work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ascend.faults import FAULTS, Level, judge
from cluster.ascend.values import Health, Unmeasured

CODES = st.lists(st.sampled_from([*FAULTS, "DEADBEEF", "A4025021"]), max_size=4).map(tuple)
HEALTH = st.sampled_from(list(Health))


@pytest.mark.parametrize(
    ("health", "codes", "level", "usable"),
    [
        (Health.OK, (), Level.NORMAL, True),
        (Health.WARNING, ("80E20207",), Level.SUB_HEALTH, True),
        (Health.WARNING, (), None, True),
        (Health.WARNING, ("DEADBEEF",), None, True),
        (Health.ALARM, ("81078603",), Level.NOT_HANDLE, True),
        (Health.ALARM, ("80E01801",), Level.RESTART_BUSINESS, False),
        (Health.ALARM, ("80E01801", "80E18402"), Level.SEPARATE, False),
        (Health.ALARM, (), None, False),
        (Health.ALARM, ("DEADBEEF",), None, False),
        (Health.CRITICAL, (), None, False),
        (Health.OK, ("80E18402",), Level.SEPARATE, False),
        (Health.UNKNOWN, (), None, False),
    ],
)
def test_levels(health: Health, codes: tuple[str, ...], level: Level | None, usable: bool) -> None:
    """The worst code decides; without one a Warning may go on and an Alarm may not."""
    found = judge(health, codes)
    assert found.usable is usable
    assert isinstance(found.level, Unmeasured) if level is None else found.level is level
    assert found.why or level is Level.NORMAL


@given(HEALTH | st.just(Unmeasured("hung")), CODES | st.just(Unmeasured("hung")))
def test_nothing_unmeasured_is_usable(
    health: Health | Unmeasured, codes: tuple[str, ...] | Unmeasured
) -> None:
    """What nobody stated is never good enough, and no fault is hidden by another code."""
    found = judge(health, codes)
    if isinstance(health, Unmeasured) or isinstance(codes, Unmeasured):
        assert not found.usable
    elif found.usable:
        levels = [FAULTS[code].level for code in codes if code in FAULTS]
        assert all(level.permits_work for level in levels)


@given(HEALTH, CODES, st.sampled_from(list(FAULTS)))
def test_one_more_code_never_improves_a_bad_level(
    health: Health, codes: tuple[str, ...], more: str
) -> None:
    """A level that forbids work is only replaced by a worse one."""
    before, after = judge(health, codes), judge(health, (*codes, more))
    if isinstance(before.level, Level) and not before.level.permits_work:
        assert isinstance(after.level, Level)
        assert after.level.precedence >= before.level.precedence and not after.usable
