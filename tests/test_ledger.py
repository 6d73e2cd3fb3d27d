"""The ledger: whole failure stories as data, a few lines each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import adoption
from orchestrator.health import Sign
from orchestrator.journal import Event
from orchestrator.ledger import Ledger, fold
from orchestrator.states import FailureClass, JobState
from orchestrator.world import World

Line = tuple[float, str, dict[str, Any]]


def story(*lines: Line) -> Ledger:
    """The ledger after `(time, kind, data)` lines; `attempt` counts by itself."""
    attempt = 0
    events = []
    for time, kind, data in lines:
        fields = dict(data)
        attempt += kind == "attempt"
        state = fields.pop("state", None)
        reason = fields.pop("reason", "")
        events.append(Event(time, kind, attempt, state, reason, fields))
    return fold(events)


def start(time: float, resumed: int = 0) -> Line:
    """An attempt begins at a step."""
    data = {"resumed_step": resumed, "sources": "s", "state": JobState.STARTING}
    return (time, "attempt", data)


def end(time: float, last_step: int, *, steps: int, seconds: float) -> Line:
    """An attempt has ended."""
    return (time, "attempt_ended", {"seconds": seconds, "steps": steps, "last_step": last_step})


def failure(
    time: float, kind: str = "process", rank: int | None = 0, *, free: bool = False
) -> Line:
    """A failure was judged."""
    return (time, "failure", {"class": kind, "rank": rank, "free": free, "cause": "c"})


def decision(time: float, *, retry: bool = True) -> Line:
    """The policy has spoken."""
    state = JobState.RECOVERING if retry else JobState.FAILED
    data = {"retry": retry, "incident": {"decision": "d"}, "state": state, "reason": "r"}
    return (time, "decision", data)


def straggler(time: float, rank: int, *, over: bool = False) -> Line:
    """A rank is slow, or is not any more."""
    place = {"node": "n", "device": f"ascend:{rank}"}
    data = {"rank": rank, "factor": 2.0, "likely": "why", "seconds": 30.0, "over": over}
    return (time, "straggler", {**data, **place})


def attempt(
    begin: float, resumed: int, last: int, kind: str = "process", **options: Any
) -> tuple[Line, ...]:
    """A whole attempt that trained a step a second from `resumed` to `last` and failed."""
    steps = max(0, last - resumed)
    return (
        start(begin, resumed),
        end(begin + steps, last, steps=steps, seconds=float(steps)),
        failure(begin + steps, kind, **options),
        decision(begin + steps),
    )


def controller(time: float, epoch: int = 1, *, forgive: bool = False) -> Line:
    """A controller takes over."""
    data = {"run_id": "r1", "epoch": epoch, "forgive": forgive, "state": JobState.QUEUED}
    return (time, "controller", data)


def test_an_empty_journal_is_a_queued_job() -> None:
    """Before the first event there is nothing to know."""
    assert fold([]) == Ledger()
    assert Ledger().state is JobState.QUEUED


def test_one_failure_then_success() -> None:
    """A killed rank: one incident, one restart, one charge, and a run that succeeded."""
    ledger = story(
        controller(0),
        *attempt(10, 0, 25, rank=3),
        start(40, 20),
        end(70, 50, steps=30, seconds=30.0),
        (71, "succeeded", {"state": JobState.SUCCEEDED, "reason": "every rank is done"}),
    )
    assert (ledger.state, ledger.reason) == (JobState.SUCCEEDED, "every rank is done")
    assert (ledger.attempt, ledger.best_step, ledger.resumed_step) == (2, 50, 20)
    assert ledger.restarts == {"process": 1}
    assert ledger.charged == {FailureClass.PROCESS: 1}
    assert ledger.first_failures == {3: 1}
    assert (ledger.started_at, ledger.ended_at) == (10, 71)
    assert len(ledger.incidents) == 1
    assert ledger.incidents[0]["decision"] == "d"


def test_the_pace_of_the_last_attempt_that_made_steps_is_known() -> None:
    """For the next one's hang limit; one that made none says nothing, nor do old journals."""
    paced = (5.0, "attempt_ended", {"seconds": 4.0, "steps": 4, "last_step": 4, "step_p99": 1.5})
    none = (9.0, "attempt_ended", {"seconds": 0.0, "steps": 0, "last_step": 0, "step_p99": None})
    assert story(start(1.0), end(5.0, 4, steps=4, seconds=4.0)).step_p99 is None
    assert story(start(1.0), paced).step_p99 == 1.5
    assert story(start(1.0), paced, start(6.0, 4), none).step_p99 == 1.5


def test_budgets_are_kept_by_class() -> None:
    """Two process failures and a hang are two and one; a final failure is no restart."""
    last = attempt(20, 8, 12)[:3]
    ledger = story(*attempt(0, 0, 5), *attempt(10, 4, 9, "hang"), *last, decision(30, retry=False))
    assert ledger.history.charged == {FailureClass.PROCESS: 2, FailureClass.HANG: 1}
    assert ledger.restarts == {"process": 1, "hang": 1}
    assert ledger.state is JobState.FAILED
    assert ledger.ended_at == 30


def test_free_failures_cost_nothing() -> None:
    """A lost port is neither charged nor an attempt without gain, but it is one in a row."""
    ledger = story(*(line for n in range(4) for line in attempt(n, 0, 0, "rendezvous", free=True)))
    assert ledger.charged == {}
    assert ledger.without_gain == 0
    assert ledger.failures_in_a_row == 4
    assert ledger.restarts == {"rendezvous": 4}


def test_attempts_without_a_new_step_are_counted() -> None:
    """Only a step beyond all before is progress: training lost steps again is none."""
    gains = story(*attempt(0, 0, 10), *attempt(20, 5, 11), *attempt(40, 10, 12)).history
    assert (gains.attempts_without_gain, gains.failures_in_a_row) == (0, 1)
    stuck = story(*attempt(0, 0, 10), *attempt(20, 5, 10), *attempt(40, 5, 8)).history
    assert (stuck.attempts_without_gain, stuck.failures_in_a_row) == (2, 3)
    start_fails = story(*attempt(0, 0, 0), *attempt(1, 0, 0), *attempt(2, 0, 0)).history
    assert start_fails.attempts_without_gain == 3


def test_one_gain_makes_the_slate_clean() -> None:
    """After two attempts for nothing, one that trains on starts the count again."""
    history = story(*attempt(0, 0, 0), *attempt(1, 0, 0), *attempt(2, 0, 7)).history
    assert (history.attempts_without_gain, history.failures_in_a_row) == (0, 1)


def test_a_person_forgives() -> None:
    """A resume by hand gives fresh budgets and takes new code; what happened stays on record."""
    story_so_far = (*attempt(0, 0, 0), *attempt(1, 0, 0), controller(5, 2, forgive=True))
    ledger = story(*story_so_far)
    assert ledger.history.charged == {}
    assert (ledger.without_gain, ledger.failures_in_a_row, ledger.sources) == (0, 0, "")
    assert (ledger.attempt, ledger.epoch, len(ledger.incidents)) == (2, 2, 2)
    assert ledger.state is JobState.QUEUED and ledger.ended_at is None


def test_another_controller_keeps_the_budgets() -> None:
    """Without a person's word nothing is forgiven."""
    ledger = story(*attempt(0, 0, 0), controller(5, 2))
    assert ledger.charged == {FailureClass.PROCESS: 1}
    assert ledger.sources == "s"


def test_goodput_counts_kept_steps_only() -> None:
    """Of 25 steps 20 were kept; the 5 after the checkpoint are trained again and do not count."""
    ledger = story(*attempt(0, 0, 25), start(30, 20))
    assert ledger.counted_seconds == pytest.approx(20.0)
    again = story(*attempt(0, 0, 25), *attempt(30, 20, 40), start(60, 40))
    assert again.counted_seconds == pytest.approx(40.0)


def test_goodput_of_a_run_that_starts_over_is_nothing() -> None:
    """No checkpoint, no kept step."""
    assert story(*attempt(0, 0, 25), start(30, 0)).counted_seconds == 0.0


def test_goodput_forgets_what_an_older_checkpoint_takes_back() -> None:
    """When the newest checkpoint is broken, steps that had counted are trained again."""
    ledger = story(*attempt(0, 0, 40), *attempt(50, 40, 45), start(60, 20))
    assert ledger.counted_seconds == pytest.approx(20.0)


def test_an_attempt_that_was_cut_off_leaves_what_its_checkpoint_proves() -> None:
    """After a controller's sudden death the step resumed from has certainly been trained."""
    ledger = story(start(0), controller(100, 2, forgive=True), start(101, 40))
    assert ledger.best_step == 40


def test_the_newest_checkpoint_is_shown() -> None:
    """Checkpoints come oldest first; a broken one is shown as not verified."""

    def saved(step: int, *, verified: bool = True) -> Line:
        return (0, "checkpoint", {"step": step, "path": f"/c/{step}", "verified": verified})

    assert story(saved(5), saved(10)).checkpoint == {
        "step": 10,
        "path": "/c/10",
        "verified": True,
    }
    ledger = story(saved(5), saved(10, verified=False))
    assert ledger.checkpoint is not None and ledger.checkpoint["verified"] is False
    moved = story(saved(5), (1, "quarantined", {"step": 5, "path": "/c/5"}))
    assert moved.checkpoint is None
    assert moved.ever_checkpointed


def checked(step: int) -> Line:
    """A checkpoint was verified."""
    return (0, "checkpoint", {"step": step, "path": f"/c/{step}", "verified": True})


def test_the_newest_is_shown_in_whatever_order_they_were_read() -> None:
    """A resume reads the newest first and the older ones in the background."""
    ledger = story(checked(40), checked(10), checked(20))
    assert ledger.checkpoint is not None and ledger.checkpoint["step"] == 40


def test_after_a_quarantine_the_next_is_shown() -> None:
    """The older checkpoint that is whole takes the place of the one moved aside."""
    ledger = story(checked(10), checked(20), (1, "quarantined", {"step": 20, "path": "/c/20"}))
    assert ledger.checkpoint is not None and ledger.checkpoint["step"] == 10


def test_recovery_is_added_to_its_incident() -> None:
    """The split of the way back lands in the newest incident."""
    ledger = story(
        *attempt(0, 0, 5), start(9, 5), (12, "recovered", {"incident": {"steps_lost": 2}})
    )
    assert ledger.incidents[0]["steps_lost"] == 2


def test_an_attempt_has_its_own_processes() -> None:
    """Pids of an earlier attempt are not shown for the next."""
    ledger = story(start(0), (1, "running", {"pids": [[0, 77, 5]]}), start(9, 5))
    assert ledger.pids == []


def test_unknown_events_only_move_the_state() -> None:
    """An event of a later release is taken for what it says of the state."""
    ledger = story((0, "novelty", {"state": JobState.HELD, "reason": "because", "x": 1}))
    assert (ledger.state, ledger.reason) == (JobState.HELD, "because")


def test_a_straggler_is_known_until_it_is_over() -> None:
    """Its device is remembered for the next attempt only if the rank was slow to the end."""
    ledger = story(
        start(0.0), straggler(40.0, 1), straggler(41.0, 2), straggler(80.0, 1, over=True)
    )
    assert ledger.stragglers == {2: {"factor": 2.0, "reason": "why"}}
    assert list(ledger.slow_devices) == ["n/ascend:2"]
    ledger = story(start(0.0), straggler(40.0, 2), start(90.0))
    assert ledger.stragglers == {}
    assert list(ledger.slow_devices) == ["n/ascend:2"]


def test_a_run_that_may_begin_anew_does() -> None:
    """Until it has saved something again."""
    saved = (5.0, "checkpoint", {"step": 4, "path": "/c/step-4", "verified": True})
    assert not story(start(0.0), saved, (6.0, "anew", {})).ever_checkpointed
    assert story(start(0.0), (6.0, "anew", {}), saved).ever_checkpointed


def signed(begin: float, last: int, signature: str | None, **data: Any) -> tuple[Line, ...]:
    """An attempt that failed at a step with a signature."""
    lines = list(attempt(begin, 0, last))
    lines[2][2].update(signature=signature, step=last, step_blur=data.pop("blur", 0))
    lines[3][2].update(data)
    return tuple(lines)


def test_the_same_failure_at_the_same_step_is_counted() -> None:
    """By signature and step, whatever came between; what has no signature never repeats."""
    assert story(*signed(0, 7, "s")).history.repeats == 1
    twice = (*signed(0, 7, "s"), *signed(9, 5, None), *signed(20, 7, "s"))
    assert story(*twice).history.repeats == 2
    assert story(*signed(0, 7, "s"), *signed(9, 8, "s")).history.repeats == 1
    assert story(*signed(0, 7, "s"), *signed(9, 7, "t")).history.repeats == 1
    assert story(*signed(0, 7, None), *signed(9, 7, None)).history.repeats == 1


def test_what_is_only_seen_from_outside_may_be_off_by_some_steps() -> None:
    """A loss that is no number is noticed at the next look; the width is on record."""
    assert story(*signed(0, 31, "s", blur=3), *signed(9, 34, "s", blur=3)).history.repeats == 2
    assert story(*signed(0, 31, "s", blur=3), *signed(9, 35, "s", blur=3)).history.repeats == 1


def test_a_fall_back_is_remembered_until_a_person_comes() -> None:
    """It is used once, gives the count of attempts without gain anew, and is forgiven."""
    fallback = {"decision": {"action": "restart", "fallback": True}}
    told = (*signed(0, 7, "s"), *signed(9, 7, "s", **fallback))
    ledger = story(*told)
    assert ledger.history.fallback_used and ledger.history.attempts_without_gain == 0
    assert story(*told, *signed(20, 7, "s")).history.repeats == 3
    forgiven = story(*told, controller(30, 2, forgive=True))
    assert not forgiven.fallback and forgiven.signed == []


def test_a_journal_of_an_earlier_release_has_neither() -> None:
    """Its failures have no signature and its decisions no row."""
    ledger = story(*attempt(0, 0, 5))
    assert (ledger.signed, ledger.fallback, ledger.decided) == ([], False, {})


def test_what_was_trained_gives_a_class_its_budget_back() -> None:
    """All of its charges, once enough training counted since the last of them."""
    ledger = story(*attempt(0, 0, 10), *attempt(20, 10, 19), start(40, 19))
    assert ledger.given_back(FailureClass.PROCESS, 9.0) == 0
    whole = story(*attempt(0, 0, 10), *attempt(20, 10, 11), start(40, 11), end(60, 21, steps=10, seconds=10.0))  # fmt: skip # noqa: E501
    assert whole.given_back(FailureClass.PROCESS, 10.0) == 2
    assert whole.given_back(FailureClass.PROCESS, 10.5) == 0
    assert whole.given_back(FailureClass.PROCESS, None) == 0
    assert whole.given_back(FailureClass.HANG, 1.0) == 0


def test_lost_training_and_waiting_give_nothing_back() -> None:
    """Steps that are lost again and again are no health; the clock on the wall is not asked."""
    hung = (*attempt(0, 0, 10, "hang"), *attempt(1e6, 0, 10, "node"), *attempt(2e6, 0, 10, "node"))
    assert story(*hung, start(3e6, 0)).given_back(FailureClass.HANG, 1.0) == 0
    assert story(*hung, start(3e6, 4)).given_back(FailureClass.HANG, 4.0) == 1


attempts = st.lists(
    st.tuples(
        st.integers(0, 6),  # how many steps of what was reached are lost
        st.integers(0, 12),  # how many are trained
        st.sampled_from([FailureClass.PROCESS, FailureClass.HANG, FailureClass.NODE]),
        st.booleans(),  # free
        st.integers(0, 1000),  # seconds of waiting
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(attempts, st.one_of(st.none(), st.integers(1, 20)))
def test_budgets_replenish_by_the_journal_alone(
    told: list[tuple[int, int, FailureClass, bool, int]], after: int | None
) -> None:
    """A replay, whole or from any prefix, charges as the run did, and as a simple model does."""
    events: list[Event] = []
    live = Ledger()
    model: dict[FailureClass, tuple[int, int]] = {}  # charges, and step at the last of them

    def add(number: int, line: Line) -> None:
        data = dict(line[2])
        state = data.pop("state", None)
        events.append(Event(line[0], line[1], number, state, data.pop("reason", ""), data))
        live.apply(events[-1])

    step, clock = 0, 0.0
    for number, (lost, trained, failed, free, waits) in enumerate(told, 1):
        resumed = max(0, step - lost)
        model = {f: (used, min(at, resumed)) for f, (used, at) in model.items()}
        add(number, start(clock, resumed))
        step = resumed + trained
        add(number, end(clock + trained, step, steps=trained, seconds=float(trained)))
        line = failure(clock + trained, failed.value, free=free)
        given = 0 if free else live.given_back(failed, after)
        add(number, (*line[:2], {**line[2], "replenished": given}))
        charges, at = model.get(failed, (0, 0))
        if not free:
            # A step takes a second, so the step reached is the training that counted.
            charges = 0 if after is not None and step - at >= after else charges
            model[failed] = (charges + 1, step)
        clock += trained + waits
        assert live.charged == {f: used for f, (used, _) in model.items()}
        assert fold(events) == live
        assert all(used > 0 for used in live.charged.values())


def test_a_world_is_told_by_the_attempt() -> None:
    """Its size, or nothing by a journal that was written before there were several."""
    old = (1.0, "attempt", {"resumed_step": 4, "sources": "s", "resumed_from": "/c", "digest": "d",
                            "world_size": 8})  # fmt: skip
    ledger = story(old)
    assert ledger.world is None
    assert ledger.chosen is not None and ledger.chosen["world_size"] == 8
    small = {"ranks": 4, "world_size": 8, "checkpoint_world_size": 8}
    ledger = story(old, (2.0, "attempt", {**old[2], **small}))
    assert ledger.world == World(8, 4)
    assert ledger.chosen is not None and ledger.chosen["world_size"] == 8


def test_growing_is_counted_and_charged_to_nothing() -> None:
    """The attempt that was ended for it is known, as is how often that was done."""
    ledger = story(
        start(0.0),
        (1.0, "growing", {"state": JobState.STOPPING}),
        (2.0, "next", {"state": JobState.RECOVERING}),
    )
    assert (ledger.growing, ledger.growths) == (1, 1)
    assert ledger.charged == {} and ledger.restarts == {} and ledger.incidents == []
    assert ledger.history.failures_in_a_row == 0


def test_a_node_that_was_lost_is_a_suspect_too() -> None:
    """A controller that dies as it records that leaves the next one a cause, and no sign."""
    lost = {"state": JobState.STOPPING, "reason": "Ray is gone"}
    found = adoption.suspect_of(story(start(1.0), (2.0, "failing", lost)))
    assert found is not None
    assert (found.rank, found.sign, found.cause) == (None, Sign.SUPERVISOR, "Ray is gone")
