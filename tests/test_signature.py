"""By what two failures are told to be the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.health import Sign
from orchestrator.policy import Evidence, classify
from orchestrator.signature import normal, signature


def of(evidence: Evidence) -> str | None:
    """The signature of what the table makes of it."""
    return signature(classify(evidence), evidence)


RAISED = Evidence(Sign.ERROR, exit_code=1, error_type="ValueError", error_message="bad box 17")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rank 3: bad box 17 at 0x7f00aa", "rank 5: bad box -4.5e3 at 0xdeadbeef"),
        ("/data/a/1.jpg is broken", "/tmp/x.png is broken"),
        ("cannot read runs/a-1f/x.ckpt", "cannot read runs/b/y.ckpt"),
        ("tensor 0123456789abcdef lost", "tensor fedcba98 lost"),
        ("a  b\nsecond line", "a b\nanother"),
    ],
)
def test_what_changes_from_run_to_run_is_left_out(one: str, other: str) -> None:
    """Numbers, addresses, paths, ids and blanks."""
    assert of(replace(RAISED, error_message=one)) == of(replace(RAISED, error_message=other))


def test_different_failures_differ() -> None:
    """By message, by type, by exit, by class."""
    all_of = [
        of(RAISED),
        of(replace(RAISED, error_message="no box")),
        of(replace(RAISED, error_type="KeyError")),
        of(replace(RAISED, exit_code=3)),
        of(Evidence(Sign.HANG)),
        of(Evidence(Sign.EXIT, signal=11)),
    ]
    assert None not in all_of and len(set(all_of)) == len(all_of)


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(Sign.EXIT, signal=9),
        Evidence(Sign.EXIT, signal=15),
        Evidence(Sign.EXIT, exit_code=75),
        Evidence(Sign.EXIT, exit_code=75, terminated_by_us=True),
        Evidence(Sign.SUPERVISOR),
        replace(RAISED, device_fault="ascend:3 is lost"),
        Evidence(Sign.EXIT, exit_code=1, log="EI0013"),
    ],
)
def test_what_comes_from_outside_is_never_the_same(evidence: Evidence) -> None:
    """A kill, a wish to be retried, a preemption, a node, a device."""
    assert of(evidence) is None


def test_a_process_that_somebody_stopped_did_not_hang_by_itself() -> None:
    """SIGSTOP comes from outside."""
    hang = Evidence(Sign.HANG)
    assert signature(classify(hang), hang, stopped=True) is None


@given(st.text(max_size=3000))
def test_any_message_has_a_short_normal_form(message: str) -> None:
    """Bounded, one line, and stable: what is normal stays so."""
    text = normal(message)
    assert len(text) <= 200 and "\n" not in text
