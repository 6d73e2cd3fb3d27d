"""Silent trouble: a loss that is no number, and ranks whose parameters differ."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.health import Sign
from orchestrator.heartbeat import Heartbeat
from orchestrator.policy import RULES, Evidence, classify
from orchestrator.silent import Silence, agreements, bad_loss, divergence
from orchestrator.states import FailureClass
from tests.runs import worker_job
from tests.support_core import training


def digest(step: int, value: int, since: int = -1) -> Heartbeat:
    """A heartbeat with a digest."""
    return training(step, float(step), digest=value, digest_step=step, digest_since=since)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_reported_loss_that_is_no_number_is_a_failure(loss: float) -> None:
    """Its rank is named, and the cause says what was reported."""
    suspect = bad_loss(3, training(7, 9.0, loss=loss, loss_reported=True))
    assert suspect is not None
    assert (suspect.rank, suspect.sign, suspect.at) == (3, Sign.NUMERIC, 9.0)
    assert str(loss) in suspect.cause


@pytest.mark.parametrize(("loss", "reported"), [(math.nan, False), (1e30, True), (0.0, True)])
def test_other_losses_are_well(loss: float, reported: bool) -> None:
    """Large, or not reported at all: a skipped step has none."""
    assert bad_loss(0, training(7, 9.0, loss=loss, loss_reported=reported)) is None


@pytest.mark.parametrize(
    ("sign", "rule"),
    [
        (Sign.NUMERIC, "the reported loss is not a number"),
        (Sign.DIVERGED, "parameters of ranks differ"),
    ],
)
def test_both_are_of_class_numeric(sign: Sign, rule: str) -> None:
    """By a rule of their own, unless a device of the gang is not well."""
    finding = classify(Evidence(sign))
    assert (finding.failure, finding.rule) == (FailureClass.NUMERIC, rule)
    assert classify(Evidence(sign, device_fault="x")).failure is FailureClass.DEVICE
    assert sum(entry.matches(Evidence(sign)) for entry in RULES) == 1


@given(
    values=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    since=st.integers(-1, 40),
)
def test_who_differs_is_named_only_against_a_majority(values: list[int], since: int) -> None:
    """No suspect where all agree; a rank only if it is the one odd out among more than half."""
    found = divergence(50, dict(enumerate(values)), len(values), at=1.0, since=since)
    if len(set(values)) == 1:
        assert found is None
        return
    assert found is not None and found.sign is Sign.DIVERGED
    assert found.trusted_step == max(0, since)
    common = max(set(values), key=values.count)
    alone = [rank for rank, value in enumerate(values) if value != common]
    majority = 2 * values.count(common) > len(values)
    assert found.rank == (alone[0] if majority and len(alone) == 1 else None)
    assert ("not determined" in found.cause) == (not majority)


def test_digests_of_the_same_step_are_compared_whenever_they_come() -> None:
    """A rank that is ahead by a digest is compared at the step that both have told of."""
    silence = Silence(frozenset({0, 1, 2}))
    for beat in (digest(50, 5), digest(100, 6)):
        silence.take(0, beat)
    silence.take(1, digest(50, 5))
    assert silence.suspect is None
    silence.take(2, digest(50, 5))
    silence.take(1, digest(100, 7, since=50))
    assert silence.suspect is None, "rank 2 has not told yet who is the odd one"
    silence.take(2, digest(100, 6, since=50))
    assert silence.suspect is not None
    assert (silence.suspect.rank, silence.suspect.trusted_step) == (1, 0)


def test_a_digest_that_was_missed_does_not_hide_a_difference() -> None:
    """Who looks now and then compares those that it has seen, once nobody can tell any more."""
    silence = Silence(frozenset({0, 1, 2}))
    silence.take(0, digest(50, 5, since=0))
    silence.take(1, digest(50, 9, since=0))
    assert silence.suspect is None
    silence.take(2, digest(100, 6, since=50))
    assert silence.suspect is not None
    assert silence.suspect.rank is None, "one of two is no majority of three"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=200))
def test_equal_parameters_are_never_called_different(order: list[tuple[int, int]]) -> None:
    """In whatever order the digests of four ranks come, and whichever are missed."""
    silence = Silence(frozenset(range(4)))
    for rank, step in order:
        silence.take(rank, digest(step, step * 7))
    assert silence.suspect is None
    assert len(silence._rounds) <= 17


@given(parts=st.integers(1, 5), start=st.integers(0, 99), rounds=st.integers(1, 20))
def test_what_comes_names_a_step_that_is_known(parts: int, start: int, rounds: int) -> None:
    """Parts in turn: wherever the next one was compared last is among the steps; they are few."""
    compared = [start] * parts
    known: frozenset[int] = frozenset()
    for number in range(rounds):
        step = start + 50 * (number + 1)
        known = agreements(known, step, compared[number % parts])
        compared[number % parts] = step
        assert known >= set(compared[(number + 1) % parts :]) - {start} | {max(compared)}
        assert compared[(number + 1) % parts] in known
        assert len(known) <= parts + 1


def test_ranks_agree_when_all_have_told_the_same() -> None:
    """Not before, not of one that was missed, and not of a rank alone."""
    silence = Silence(frozenset({0, 1}))
    silence.take(0, digest(50, 5, since=0))
    assert silence.agreed == frozenset()
    silence.take(1, digest(50, 5, since=0))
    assert silence.agreed == {0, 50}
    silence.take(0, digest(100, 6, since=50))
    silence.take(1, digest(150, 7, since=100))
    assert silence.agreed == {0, 50}
    silence.take(0, digest(150, 8, since=100))
    assert silence.suspect is not None and silence.agreed == {0, 50}
    alone = Silence(frozenset({0}))
    alone.take(0, digest(50, 5, since=0))
    assert alone.agreed == frozenset()


def test_a_loss_that_is_no_number_restarts_the_run(tmp_path: Path) -> None:
    """A real script that reports NaN is stopped at once, as class numeric, and comes back."""
    job = worker_job(tmp_path, args={"steps": 60, "fail": "nan@30"}, checkpoint={"every_steps": 10})
    done = job.run()
    assert done.code == 0, done.text
    (incident,) = job.incidents()
    assert (incident["class"], incident["rank"]) == ("numeric", 1)
    assert incident["rule"] == "the reported loss is not a number"
    assert "nan" in incident["cause"]


@pytest.mark.parametrize("snapshots", [None, 5])
def test_ranks_that_differ_go_back_to_where_they_agreed(
    tmp_path: Path, snapshots: int | None
) -> None:
    """What was saved since the last common digest is given up; the odd one of three is named."""
    job = worker_job(
        tmp_path,
        ranks=3,
        args={"steps": 100, "fail": "diverge@45", "digests": 20},
        checkpoint={
            "every_steps": 10,
            **({"snapshot_every_steps": snapshots} if snapshots else {}),
        },
    )
    done = job.run()
    assert done.code == 0, done.text
    (incident,) = job.incidents()
    assert (incident["class"], incident["rank"]) == ("numeric", 1)
    assert incident["rule"] == "parameters of ranks differ"
    events = job.events()
    second = next(e for e in events if e["kind"] == "attempt" and e["attempt"] == 2)
    assert second["data"]["resumed_step"] == 40
    moved = [e["data"]["step"] for e in events if e["kind"] == "quarantined"]
    assert moved and all(40 < step <= 100 for step in moved)


def test_a_run_that_never_agreed_begins_anew(tmp_path: Path) -> None:
    """Of two ranks none is named; with nothing left that can be trusted it starts from step 0."""
    job = worker_job(
        tmp_path,
        args={"steps": 60, "fail": "diverge@5", "digests": 20},
        checkpoint={"every_steps": 10},
    )
    done = job.run()
    assert done.code == 0, done.text
    (incident,) = job.incidents()
    assert incident["rank"] is None
    assert "not determined" in incident["cause"]
    events = job.events()
    second = next(e for e in events if e["kind"] == "attempt" and e["attempt"] == 2)
    assert second["data"]["resumed_step"] == 0
    assert "anew" in [event["kind"] for event in events]
