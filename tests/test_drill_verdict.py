"""What is promised of a fault, and whether a journal shows that it was kept. Pure."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from orchestrator.drill import parse
from orchestrator.drill.promise import EXIT_SEEN, TABLE, Moment, Promise, promised
from orchestrator.drill.verdict import compare, follow, open_drills, promise_of, settled
from orchestrator.journal import Event
from orchestrator.ledger import Ledger
from orchestrator.states import FailureClass, JobState
from orchestrator.world import World
from tests.support_core import job

SPEC = job("checkpoint.every_steps=10", "health.heartbeat_timeout=90s")
MOMENT = Moment(phase="train", step=23, checkpoint=20, stops=True, slowest=0.1)


def promise(fault: str, moment: Moment = MOMENT, ledger: Ledger | None = None) -> Promise:
    """What is promised of a fault in the middle of the training."""
    parsed = parse(fault)
    return promised(parsed.kind, parsed.rank, moment, SPEC, ledger or Ledger())


def event(kind: str, attempt: int = 1, state: JobState | None = None, **data: Any) -> Event:
    """A line of a journal."""
    return Event(0.0, kind, attempt, state, "", data)


def history(
    fault: str = "kill-rank:1", *, failure: dict[str, Any] | None = None, **changes: Any
) -> list[Event]:
    """A fault, its incident, and the way back; `failure` and further words change what is told."""
    resumed = {"resumed_step": 20, "resumed_from": "/c/20", "sources": "", **changes}
    lost = resumed.pop("steps_lost", 3)
    found = {
        "class": "process", "rank": 1, "cause": "killed", "rule": "killed by a signal",
        "free": False, "detected_after": 0.05, "fault_at_source": "drill", "device": None,
        "node": None, **(failure or {}),
    }  # fmt: skip
    return [
        event("controller", run_id="r", epoch=1, state=JobState.QUEUED),
        event("attempt", state=JobState.STARTING, resumed_step=0, sources=""),
        event("running", state=JobState.RUNNING, pids=[]),
        event("checkpoint", step=20, path="/c/20", verified=True),
        event("drill", fault=fault, rank=parse(fault).rank, at=5.0, **asdict(MOMENT)),
        event("failing", state=JobState.STOPPING, stepped_before=True),
        event("attempt_ended", steps=23, last_step=23, seconds=1.0),
        event("failure", **found),
        event("decision", state=JobState.RECOVERING, retry=True, incident={}),
        event("attempt", 2, JobState.STARTING, **resumed),
        event("running", 2, JobState.RUNNING, pids=[]),
        event("resumed", 2),
        event("recovered", 2, incident={"steps_lost": lost, "first_step_after": 1.0}),
    ]


def problems(events: list[Event], **more: Any) -> list[str]:
    """What is wrong about the one fault of a journal."""
    [place] = open_drills(events)
    return compare(promise_of(SPEC, events, place), follow(events, place), **more)


def test_a_run_that_keeps_its_word_passes() -> None:
    """Class, blame, time, restart, verified checkpoint, proof and lost steps are as promised."""
    assert problems(history()) == []


@pytest.mark.parametrize(
    ("events", "says"),
    [
        (history(failure={"class": "hang"}), "class hang"),
        (history(failure={"rank": 0}), "blamed rank 0 instead of 1"),
        (history(failure={"free": True}), "not charged"),
        (history(failure={"detected_after": 0.5}), "seen after 0.50 s instead of 0.2 s"),
        (history(steps_lost=11), "11 steps lost instead of at most 10"),
        (history(resumed_step=10), "resumed from step 10, though 20 was saved"),
        (history(resumed_from="/c/x"), "was not verified"),
        ([e for e in history() if e.kind != "resumed"], "no proof"),
        (history()[:5], "no failure of class process"),
        (
            [*history()[:8], event("decision", state=JobState.FAILED, retry=False, incident={})],
            "it ended",
        ),
        (history("kill-raylet"), "it failed, class process"),
        (history("preempt", failure={"class": "preemption", "free": True}), "3 steps lost"),
    ],
)
def test_each_broken_promise_is_named(events: list[Event], says: str) -> None:
    """A sentence for what was promised and did not come."""
    assert any(says in problem for problem in problems(events)), problems(events)


def test_a_snapshot_is_as_good_as_a_checkpoint() -> None:
    """No event tells of one: that it was read and its digest checked is what counts."""
    path = "/dev/shm/muster-snapshots-x/a/step-00000022"
    assert (
        problems(
            history(resumed_from=path, resumed_step=22, digest="d", snapshot=True, steps_lost=1)
        )
        == []
    )


def test_a_process_of_the_old_gang_that_lives_is_named() -> None:
    """Two gangs at once are the worst that may happen."""
    assert "[77]" in problems(history(), alive=[77])[0]


def test_a_damaged_checkpoint_is_never_resumed_from() -> None:
    """Another fault's failure is not held against the damage; the use of it is."""
    events = history()
    damage = {**asdict(MOMENT), "touched": "/c/20"}
    events.insert(4, event("drill", fault="corrupt-checkpoint", rank=None, at=4.0, **damage))
    found = follow(events, 4)
    assert compare(promise_of(SPEC, events, 4), found) == [
        "an attempt resumed from the damaged /c/20"
    ]
    assert compare(promise_of(SPEC, events, 4), replace(found, used=("/c/10",))) == []


@pytest.mark.parametrize("kind", TABLE)
def test_every_kind_has_a_promise_in_words(kind: str) -> None:
    """It can be shown, and goes through the journal."""
    made = promised(kind, 1, MOMENT, SPEC, Ledger())
    assert made.text()
    assert made.to_document()["text"] == made.text()


def test_a_spent_budget_promises_an_end() -> None:
    """The fourth process failure ends a run with three restarts; a free one never does."""
    spent = Ledger(charged={FailureClass.PROCESS: 3})
    assert promise("kill-rank:1").goes_on is True
    assert promise("kill-rank:1", ledger=spent).goes_on is False
    assert promise("preempt", ledger=spent).goes_on is True


def test_what_saves_itself_loses_nothing() -> None:
    """A rank that can be asked leaves with its state; one that cannot loses up to an interval."""
    assert promise("term-rank:1").lost_at_most == 0
    assert promise("term-rank:1", replace(MOMENT, stops=False)).lost_at_most == 10
    assert promise("kill-rank:1").lost_at_most == 10


@pytest.mark.parametrize("kind", ["kill-rank", "hang-rank", "kill-supervisor", "kill-controller"])
@pytest.mark.parametrize(
    ("every", "snapshots", "size", "lost"),
    [
        (10, 4, 8, 4),
        (10, 4, None, 4),
        (4, 10, 8, 4),
        (10, None, 8, 10),
        (None, 4, 8, 4),
        (None, None, 8, None),
        (10, 4, 4, 10),
    ],
    ids=[
        "snapshots",
        "no world told",
        "seldom",
        "none",
        "alone",
        "neither",
        "a smaller world takes none",
    ],
)
def test_no_more_is_lost_than_lies_between_two_saved_states(
    kind: str, every: int | None, snapshots: int | None, size: int | None, lost: int | None
) -> None:
    """Snapshots outlive every process of the run, so they bound what a death costs."""
    saved = {"every_steps": every, "snapshot_every_steps": snapshots}
    overrides = [f"checkpoint.{name}={steps}" for name, steps in saved.items() if steps]
    ledger = Ledger(world=World(8, size) if size else None)
    rank = 1 if kind.endswith("rank") else None
    made = promised(kind, rank, MOMENT, job(*overrides), ledger)
    assert made.lost_at_most == lost


@pytest.mark.parametrize(
    ("overrides", "slowest", "before", "seen"),
    [
        ((), 0.1, None, 60.0),
        ((), 20.0, None, 100.0),
        ((), 0.1, 20.0, 100.0),
        (("health.hang.floor=5s",), 0.1, None, 5.0),
        (("health.hang.floor=5s", "health.hang.factor=3"), 20.0, None, 60.0),
        (("health.hang.ceiling=70s",), 20.0, None, 70.0),
        (("health.heartbeat_timeout=7s",), 20.0, 30.0, 7.0),
        ((), 0.0, None, None),
    ],
)
def test_hangs_are_found_by_the_law_of_the_job(
    overrides: tuple[str, ...], slowest: float, before: float | None, seen: float | None
) -> None:
    """Factor, floor and ceiling, over the steps of this attempt and of those before it."""
    moment = replace(MOMENT, slowest=slowest)
    made = promised("hang-rank", 1, moment, job(*overrides), Ledger(step_p99=before))
    assert made.seen_within == (None if seen is None else pytest.approx(seen + 1.0))


def test_hangs_have_the_limit_of_their_phase() -> None:
    """The job's own while training, the phase's elsewhere; an exit is seen at once."""
    assert promise("hang-rank:1").seen_within == pytest.approx(91.0)
    loading = replace(MOMENT, phase="load")
    assert promise("hang-rank:1", loading).seen_within == pytest.approx(601.0)
    assert promise("kill-rank:1").seen_within == EXIT_SEEN


def test_a_verdict_waits_for_the_way_back() -> None:
    """Not before the first new step, an end, or some quiet steps of what is not to fail."""
    events = history()
    [place] = open_drills(events)
    for known, expected in ((events[:5], False), (events[:-1], False), (events, True)):
        expects = promise_of(SPEC, known, place)
        assert settled(known, place, expects, follow(known, place), 99) is expected
    quiet = history("slow-rank:1")[:5]
    expects = promise_of(SPEC, quiet, 4)
    assert not settled(quiet, 4, expects, follow(quiet, 4), MOMENT.step + 1)
    assert settled(quiet, 4, expects, follow(quiet, 4), MOMENT.step + 5)


def test_a_killed_controller_is_followed_by_another() -> None:
    """Alone it has to be resumed; in a service the gang is adopted and not stopped."""
    alone = promise("kill-controller")
    served = promise("kill-controller", replace(MOMENT, submitted=True))
    assert alone.another_controller and not alone.same_attempt
    assert served.same_attempt
    events = [*history("kill-controller")[:5]]
    assert "no other controller has taken the run up" in problems(events)


def test_a_judged_drill_is_not_open_any_more() -> None:
    """One verdict a fault, also across controllers."""
    events = [*history(), event("drill_result", drilled_at=5.0)]
    assert open_drills(events) == []
