"""Whether a job in a smaller world gets the rest of its devices: the queue's own answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.allocate import Placement, Refusal
from orchestrator.queueing import Quota, Running, Waiting
from orchestrator.queueing.growing import grown
from tests.queues import ASCEND, NOW, cluster, job, node, running, runs

WHERE = cluster(node("n", ascend=8))


def small(ranks: int = 8, on: int = 4, **fields: object) -> tuple[Waiting, Running]:
    """A job of so many ranks that runs on fewer devices of a node of eight."""
    asked = job("small", ranks, **fields)  # type: ignore[arg-type]
    [held] = runs(WHERE, job("small", on, **fields))  # type: ignore[arg-type]
    return asked, held


def ask(
    waiting: Sequence[Waiting] = (),
    others: Sequence[Running] = (),
    quotas: Sequence[Quota] = (),
    **fields: object,
) -> Placement | Refusal:
    """What the queue says to the job that runs on four of its eight devices."""
    asked, held = small(**fields)  # type: ignore[arg-type]
    return grown(asked, waiting, [held, *others], quotas, WHERE, NOW)


def test_what_nobody_waits_for_is_given() -> None:
    """All eight, its own four among them."""
    answer = ask()
    assert isinstance(answer, Placement)
    assert [one.device.index for one in answer.assignments] == list(range(8))


@pytest.mark.parametrize(
    ("other", "given"),
    [
        (job("w", 8, at=7.0), False),
        (job("w", 8, at=2 * NOW), False),
        (job("w", 8, priority=90), False),
        (job("w", 2), False),
        (job("w", 8, priority=49), True),
        (job("w", 2, priority=10), True),
        (job("w", 16), True),
    ],
    ids=["equal", "equal, later", "higher", "few", "lower", "few, lower", "can never start"],
)
def test_who_waits_with_its_priority_or_a_higher_goes_first(other: Waiting, given: bool) -> None:
    """It runs and they do not; who can never start keeps nobody waiting."""
    answer = ask([other])
    assert isinstance(answer, Placement) is given
    if isinstance(answer, Refusal):
        assert answer.reason == "job w waits for devices and goes before it"


def test_what_is_kept_for_who_is_next_is_kept() -> None:
    """The next in line waits for somebody else's devices; these four are among those it gets."""
    four, eight = job("four", 4, run=100.0), job("eight", 8)
    asked = job("small", 4)
    [held, other] = runs(WHERE, job("small", 2), four)
    answer = grown(asked, [eight], [held, other], [], WHERE, NOW)
    assert isinstance(answer, Refusal)
    assert "behind job eight" in answer.reason
    limited = replace(asked, run_limit=0.0)
    assert isinstance(grown(limited, [eight], [held, other], [], WHERE, NOW), Placement)


def test_a_quota_holds_for_the_whole_job() -> None:
    """What it holds already is counted once."""
    asked = [Quota("default", {ASCEND: most}) for most in (7, 8)]
    seven, eight = (ask(quotas=[quota]) for quota in asked)
    assert isinstance(eight, Placement)
    assert isinstance(seven, Refusal)
    assert "quota of queue default is 7" in seven.reason


def test_devices_of_others_are_not_taken() -> None:
    """Nobody is preempted so that a job may grow."""
    [own, other] = runs(WHERE, job("small", 4, priority=90), job("o", 4, priority=1))
    answer = grown(job("small", 8, priority=90), [], [own, other], [], WHERE, NOW)
    assert isinstance(answer, Refusal)
    assert "8" in answer.reason


def test_a_wait_that_is_over_does_not_matter_to_who_runs() -> None:
    """`limits.wait` is of the line; it may have waited for days before it ran."""
    asked, held = small(wait=1.0)
    others = [running(job("o", 4), ask_for(4), NOW)]
    assert isinstance(grown(asked, [], [held, *others], [], WHERE, NOW), Refusal)


def ask_for(ranks: int) -> Placement:
    """The last devices of the node."""
    [whole] = runs(WHERE, job("all", 8))
    return Placement(whole.assignments[-ranks:])
