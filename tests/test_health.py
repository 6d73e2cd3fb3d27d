"""Health: who failed first, who hangs, who is done; scripted histories of a gang."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.health import (
    HANG_FLOOR,
    Exit,
    Limits,
    Observation,
    RankView,
    Sign,
    Suspect,
    finished,
    first_failure,
    hang_limit,
    p99,
    signal_name,
)
from orchestrator.spec import Hang
from orchestrator.states import RankState
from tests.support_core import beat, done, killed, left, training, view

LIMITS = Limits({"init": 600.0, "compile": 1800.0, "checkpoint": 600.0}, None)
GIVEN = Limits({"init": 600.0}, 30.0)


def look(
    *ranks: RankView,
    now: float = 100.0,
    scheduler: Exit | None = None,
    steps: tuple[float, ...] = (0.1,),
) -> Observation:
    """One look at the gang."""
    return Observation(now=now, ranks=ranks, scheduler_exit=scheduler, step_times=steps)


def error(at: float, message: str = "boom") -> dict[str, object]:
    """An error record."""
    return {"monotonic": at, "type": "ValueError", "message": message, "traceback": "t"}


def blamed(observation: Observation, limits: Limits = LIMITS) -> tuple[int | None, Sign] | None:
    """Rank and sign of the first failure."""
    suspect = first_failure(observation, limits)
    return None if suspect is None else (suspect.rank, suspect.sign)


WELL = view(0, beat=training(50, 99.9))
AHEAD = view(0, beat=beat(phase="train", phase_at=1800.0))

HISTORIES: list[tuple[str, Observation, tuple[int | None, Sign] | None]] = [
    ("all train", look(WELL, view(1, beat=training(50, 99.8))), None),
    ("not started yet", look(RankView(0), RankView(1)), None),
    ("one was killed", look(WELL, view(1, exit=killed(99.0))), (1, Sign.EXIT)),
    (
        "the first of two deaths counts",
        look(view(0, exit=left(1, 99.0)), view(1, exit=killed(98.5))),
        (1, Sign.EXIT),
    ),
    (
        "peers that die of it are its echo",
        look(view(0, exit=left(1, 99.0)), view(1, exit=left(1, 99.1)), view(2, exit=killed(98.9))),
        (2, Sign.EXIT),
    ),
    (
        "who was stopped by us did not fail",
        look(view(0, exit=killed(98.0, asked=True)), view(1, exit=left(1, 99.0))),
        (1, Sign.EXIT),
    ),
    (
        "an exception counts when it was raised, not when the process left",
        look(
            view(0, exit=left(1, 98.0)),
            view(1, beat=training(9, 97.0, failed=True), error=error(97.5), exit=left(1, 99.0)),
        ),
        (1, Sign.ERROR),
    ),
    (
        "a rank that raised and hangs in its exit has failed",
        look(WELL, view(1, beat=training(9, 90.0, failed=True), error=error(97.5))),
        (1, Sign.ERROR),
    ),
    (
        "without its record it is given half a second to write one",
        look(WELL, view(1, beat=training(9, 99.8, failed=True))),
        None,
    ),
    (
        "and then believed",
        look(WELL, view(1, beat=training(9, 99.0, failed=True))),
        (1, Sign.ERROR),
    ),
    (
        "left with 0 before it was done",
        look(WELL, view(1, beat=training(9, 98.0), exit=left(0, 99.0))),
        (1, Sign.LEFT_EARLY),
    ),
    (
        "left with 0 without ever using the contract",
        look(view(0, exit=left(0, 99.0)), view(1)),
        None,
    ),
    (
        "a crash at exit after success is no failure",
        look(WELL, view(1, beat=done(98.0), exit=killed(99.0, signal.SIGSEGV))),
        None,
    ),
    (
        "a program that cannot be started",
        look(RankView(0, start_failed="none: no such program"), RankView(1)),
        (0, Sign.NOT_STARTED),
    ),
    (
        "the scheduler died",
        look(WELL, scheduler=killed(99.0)),
        (None, Sign.SCHEDULER),
    ),
    (
        "the scheduler died of a rank",
        look(WELL, view(1, exit=killed(98.9)), scheduler=left(1, 99.0)),
        (1, Sign.EXIT),
    ),
    (
        "the scheduler leaves when ranks are done",
        look(WELL, view(1, beat=done(98.0)), scheduler=left(0, 99.0)),
        None,
    ),
    (
        "a scheduler that ends well a moment before ranks that never use the contract",
        look(view(0), view(1), scheduler=left(0, 99.99)),
        None,
    ),
    (
        "too long in a phase",
        look(AHEAD, view(1, beat=beat(phase="compile", phase_at=0.0)), now=1801.0),
        (1, Sign.HANG),
    ),
    (
        "a phase without a limit may last",
        look(view(0, beat=beat(phase="evaluate", phase_at=0.0)), now=1e6),
        None,
    ),
]


@pytest.mark.parametrize(
    ("observation", "expected"),
    [pytest.param(seen, expected, id=name) for name, seen, expected in HISTORIES],
)
def test_first_failure(observation: Observation, expected: tuple[int | None, Sign] | None) -> None:
    """The earliest sign is blamed, and its echoes are not."""
    assert blamed(observation) == expected


def test_causes_are_sentences() -> None:
    """A cause names the signal, the code, or the exception with its first line."""
    cases = [
        (view(0, exit=killed(1.0)), "killed by SIGKILL"),
        (view(0, exit=left(3, 1.0)), "exit code 3"),
        (view(0, error=error(1.0, "first\nsecond")), "ValueError: first"),
        (view(0, beat=beat(), exit=left(0, 1.0)), "left with exit code 0 before it was done"),
    ]
    for rank, cause in cases:
        suspect = first_failure(look(rank), LIMITS)
        assert suspect is not None and suspect.cause == cause


def waiting(*late: int) -> list[RankView]:
    """Four ranks that finished a step at 40 s, those in `late` a little before the others."""
    return [view(rank, beat=training(50, 39.98 if rank in late else 40.0)) for rank in range(4)]


def test_the_rank_that_is_behind_is_blamed_for_the_hang_of_all() -> None:
    """One stands a step behind those that wait for it: it is the one that hangs."""
    ranks = waiting()
    ranks[2] = view(2, beat=training(49, 39.0))
    assert blamed(look(*ranks), GIVEN) == (2, Sign.HANG)


def test_the_rank_that_was_stopped_is_blamed_for_the_hang_of_all() -> None:
    """All stand at the same step and one process is stopped: it, whoever was silent first."""
    ranks = waiting(0)
    ranks[2] = replace(ranks[2], process_state="T")
    assert blamed(look(*ranks, now=100.0), GIVEN) == (2, Sign.HANG)
    assert blamed(look(*ranks, now=69.99), GIVEN) == (2, Sign.HANG)


def test_a_rank_that_is_behind_is_blamed_though_another_was_silent_first() -> None:
    """The limit is crossed by a rank that waits; the one it waits for is named."""
    ranks = waiting(0)
    ranks[3] = view(3, beat=training(49, 40.0))
    assert blamed(look(*ranks, now=69.99), GIVEN) == (3, Sign.HANG)


@pytest.mark.parametrize("now", [69.99, 100.0])
def test_a_hang_of_equals_names_nobody(now: float) -> None:
    """Where all look alike no rank is blamed, also when one crossed the limit first."""
    assert blamed(look(*waiting(0), now=now), GIVEN) == (None, Sign.HANG)


@pytest.mark.parametrize("phase", ["compile", "snapshot", "checkpoint", "evaluate"])
def test_who_waits_for_a_busy_peer_is_not_hung(phase: str) -> None:
    """While one rank saves or evaluates within its time, those that wait for it are well."""
    limits = Limits({"compile": 1800.0, "snapshot": 600.0, "checkpoint": 600.0}, None)
    busy = view(0, beat=training(50, 100.0, phase=phase, phase_at=100.0))
    peers = [view(rank, beat=training(50, 100.0)) for rank in (1, 2)]
    assert blamed(look(busy, *peers, now=500.0), limits) is None
    assert blamed(look(busy, peers[0], now=500.0), limits) is None


def test_a_rank_that_hangs_in_its_checkpoint_is_blamed() -> None:
    """After the phase's own limit the busy rank is the one that hangs, not its peers."""
    busy = view(0, beat=training(50, 100.0, phase="checkpoint", phase_at=100.0))
    peers = [view(rank, beat=training(50, 100.0)) for rank in (1, 2)]
    assert blamed(look(busy, *peers, now=701.0)) == (0, Sign.HANG)
    assert blamed(look(busy, peers[0], now=701.0)) == (0, Sign.HANG)


def test_who_has_waited_for_a_peer_is_not_late_when_it_comes_back() -> None:
    """Rank 0 evaluated for longer than a step may take: all have a whole step's time again."""
    back = view(0, beat=training(50, 100.0, phase_at=400.0, beat_at=400.0))
    peers = [view(rank, beat=training(50, 100.0)) for rank in (1, 2)]
    assert blamed(look(back, *peers, now=400.1)) is None
    assert blamed(look(back, *peers, now=459.9)) is None
    assert blamed(look(back, *peers, now=460.1)) == (None, Sign.HANG)


def test_a_peer_that_is_ahead_excuses_nobody() -> None:
    """Ranks that do not wait for each other: one that goes on does not hide one that hangs."""
    ahead = view(0, beat=training(90, 399.0, phase_at=395.0, beat_at=399.0))
    assert blamed(look(ahead, view(1, beat=training(50, 100.0)), now=400.0)) == (1, Sign.HANG)


def test_nobody_is_called_hung_by_a_look_that_is_older_than_the_last_word() -> None:
    """One left with its last step: how far its peers are by now is told by the next look."""
    first_out = view(0, beat=replace(done(400.2), step=51, step_at=400.2))
    peer = view(1, beat=training(50, 100.0))
    assert blamed(look(first_out, peer, now=400.0)) is None
    assert blamed(look(first_out, peer, now=460.3)) == (1, Sign.HANG)


def test_ranks_that_have_left_are_not_hung() -> None:
    """Who is done or gone does not wait for a step."""
    ranks = [
        view(0, beat=done(10.0)),
        view(1, beat=training(9, 10.0), exit=killed(11.0, asked=True)),
    ]
    assert blamed(look(*ranks), GIVEN) is None


def test_hangs_count_from_the_last_step_or_the_phase() -> None:
    """A rank that comes back from a long checkpoint is not late at once."""
    late = view(0, beat=training(5, 10.0))
    back = view(0, beat=training(5, 10.0, phase_at=95.0))
    assert blamed(look(late), GIVEN) == (0, Sign.HANG)
    assert blamed(look(back), GIVEN) is None
    suspect = first_failure(look(late), GIVEN)
    assert suspect == Suspect(0, 40.0, Sign.HANG, "no step for 30 s while training")


@pytest.mark.parametrize("steps", [(), (0.1,)])
def test_a_first_step_that_never_comes_is_a_hang(steps: tuple[float, ...]) -> None:
    """A rank that trains and never finishes a step is noticed, whatever is known of step times."""
    stuck = view(0, beat=beat(phase="train", phase_at=0.0))
    assert blamed(look(stuck, now=86400.0, steps=steps)) == (0, Sign.HANG)


def test_a_second_step_that_never_comes_is_a_hang() -> None:
    """After one step no step time is known yet: there is a limit all the same."""
    stuck = view(0, beat=training(1, 5.0))
    assert blamed(look(stuck, now=86400.0, steps=())) == (0, Sign.HANG)


def test_a_rank_that_never_speaks_while_its_peers_do_is_noticed() -> None:
    """A process that stands still before its first beat, e.g. after a fork, is a hang."""
    silent = view(1, started_at=0.0)
    peer = view(0, beat=beat(phase="join", phase_at=86399.0))
    assert blamed(look(peer, silent, now=86400.0)) == (1, Sign.HANG)


def test_a_start_that_is_never_answered_is_noticed() -> None:
    """A rank that gets no process does not hold the others for ever."""
    peer = view(0, beat=beat(phase="join", phase_at=86399.0))
    assert blamed(look(peer, RankView(1), now=86400.0)) == (1, Sign.HANG)


def test_a_script_without_heartbeats_lives_by_its_log() -> None:
    """Who never uses the contract is hung when its log stands still, not before."""
    talking = view(0, started_at=0.0, log_at=86399.0)
    assert blamed(look(talking, now=86400.0)) is None
    silent = view(0, started_at=0.0, log_at=100.0)
    assert blamed(look(silent, now=86400.0)) == (0, Sign.HANG)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=300))
def test_the_limit_is_far_above_what_was_seen(steps: list[float]) -> None:
    """Never below the floor, and five times what 99 of 100 steps stay below."""
    limit = hang_limit(steps, None, 1800.0, Hang(ceiling=9999.0))
    assert limit >= HANG_FLOOR
    assert sum(5 * step > limit for step in steps) <= len(steps) * 0.01 + 1
    assert limit <= max(HANG_FLOOR, 5 * max(steps))


def test_a_given_limit_wins() -> None:
    """What the job says is taken, also below the floor."""
    assert hang_limit([1.0], 2.0, 1800.0) == 2.0
    assert hang_limit([], 2.0, 1800.0) == 2.0
    assert hang_limit([], None, 1800.0) == 1800.0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=120),
    st.none() | st.floats(0.001, 1000.0),
    st.floats(1.1, 20.0),
    st.floats(1.0, 100.0),
    st.floats(100.0, 5000.0),
)
def test_a_worked_out_limit_stays_between_floor_and_ceiling(
    steps: list[float], earlier: float | None, factor: float, floor: float, ceiling: float
) -> None:
    """It is the job's factor times its own slow steps wherever the bounds allow that."""
    law = Hang(factor=factor, floor=floor, ceiling=ceiling)
    limit = hang_limit(steps, None, 9999.0, law, earlier)
    assert floor <= limit <= ceiling
    slow = p99(steps) if len(steps) >= 100 else max(p99(steps), earlier or 0.0)
    assert limit == min(ceiling, max(floor, factor * slow))


def test_steps_of_earlier_attempts_count_once_the_new_one_has_begun() -> None:
    """Before its first step a restarted rank may compile; after it the run's own pace holds."""
    known = Limits({"compile": 1800.0}, None, earlier_p99=2.0)
    compiling = view(0, beat=beat(phase="train", phase_at=0.0))
    assert blamed(look(compiling, now=1799.0, steps=()), known) is None
    stepped = view(0, beat=training(41, 5.0))
    assert blamed(look(stepped, now=64.9, steps=()), known) is None
    assert blamed(look(stepped, now=65.1, steps=()), known) == (0, Sign.HANG)
    assert blamed(look(stepped, now=65.1, steps=())) is None


def test_who_waits_for_a_peer_that_has_not_stepped_gives_it_the_time_to_compile() -> None:
    """One rank's first step is no measure for another's."""
    known = Limits({"compile": 1800.0}, None, earlier_p99=2.0)
    ranks = [view(0, beat=training(41, 5.0)), view(1, beat=beat(phase="train", phase_at=0.0))]
    assert blamed(look(*ranks, now=1000.0, steps=()), known) is None


def test_who_waited_for_a_busy_peer_is_not_late_when_it_returns() -> None:
    """The next step is due a limit after the return of the last; then it is a hang all the same."""
    waiting, back = view(0, beat=training(50, 10.0)), training(50, 10.0, phase_at=3000.0)
    assert blamed(look(waiting, view(1, beat=back), now=3059.0)) is None
    assert blamed(look(waiting, view(1, beat=back), now=3061.0)) == (None, Sign.HANG)
    stepped = view(1, beat=training(60, 3001.0, phase_at=3000.0))
    assert blamed(look(waiting, stepped, now=3002.0)) == (0, Sign.HANG)


@pytest.mark.parametrize("ahead", [1, 2])
def test_who_is_a_moment_behind_a_peer_that_was_busy_is_not_late(ahead: int) -> None:
    """The first step after a long evaluation is told by one rank before the other's is seen."""
    behind = view(0, beat=training(50, 10.0))
    stepped = view(1, beat=training(50 + ahead, 3001.0, phase_at=3000.0))
    assert blamed(look(behind, stepped, now=3001.1)) is None
    assert blamed(look(behind, stepped, now=3060.9)) is None
    assert blamed(look(behind, stepped, now=3061.1)) == (0, Sign.HANG)


def test_old_steps_do_not_count_for_ever() -> None:
    """A run that has become faster is judged by its own hundred steps."""
    assert hang_limit([1.0] * 99, None, 1800.0, earlier_p99=100.0) == 500.0
    assert hang_limit([1.0] * 100, None, 1800.0, earlier_p99=100.0) == 60.0


@pytest.mark.parametrize("phase", ["compile", "checkpoint", "evaluate"])
def test_no_long_phase_is_a_hang(phase: str) -> None:
    """Whatever the steps took, a phase has the limit of its own, and so have those who wait."""
    limits = Limits({"compile": 1800.0, "checkpoint": 1800.0, "evaluate": 1800.0}, None)
    busy = view(0, beat=training(50, 100.0, phase=phase, phase_at=100.0))
    peer = view(1, beat=training(50, 100.0))
    assert blamed(look(busy, peer, now=1899.0), limits) is None
    assert blamed(look(busy, peer, now=1901.0), limits) == (0, Sign.HANG)
    back = [view(rank, beat=training(50, 100.0, phase_at=1890.0)) for rank in (0, 1)]
    assert blamed(look(*back, now=1949.0), limits) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 99), st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_no_unasked_death_is_overlooked(ends: list[tuple[float, bool, bool]]) -> None:
    """Whatever the order of ends, the earliest unasked bad one is blamed, or there was none."""
    ranks = [
        view(rank, exit=killed(at, asked=asked) if bad else left(0, at))
        for rank, (at, asked, bad) in enumerate(ends)
    ]
    suspect = first_failure(look(*ranks), LIMITS)
    bad = [at for at, asked, broken in ends if broken and not asked]
    assert (suspect.at if suspect else None) == (min(bad) if bad else None)


def test_finished_when_all_are_done_and_gone() -> None:
    """Success and exit of every rank end the run; the scheduler is not waited for."""
    gone = view(0, beat=done(90.0), exit=left(0, 91.0))
    assert finished(look(gone, view(1, beat=done(90.0), exit=left(0, 91.0))))
    assert finished(look(gone, view(1, exit=left(0, 91.0))))
    assert not finished(look(gone, view(1, beat=training(9, 99.0))))
    assert not finished(look(gone, view(1)))


def test_a_done_rank_has_a_minute_to_leave() -> None:
    """A rank that is done and does not leave is waited for, but not for ever."""
    slow = view(1, beat=done(90.0))
    gone = view(0, beat=done(90.0), exit=left(0, 91.0))
    assert not finished(look(gone, slow, now=140.0))
    assert finished(look(gone, slow, now=160.0))


@pytest.mark.parametrize(
    ("rank", "state"),
    [
        (RankView(0), RankState.PENDING),
        (RankView(0, start_failed="x"), RankState.FAILED),
        (view(0), RankState.STARTING),
        (view(0, beat=beat()), RankState.STARTING),
        (view(0, beat=beat(phase="join")), RankState.JOINING),
        (view(0, beat=beat(phase="load")), RankState.LOADING),
        (view(0, beat=beat(phase="compile")), RankState.COMPILING),
        (view(0, beat=training(3, 1.0)), RankState.TRAINING),
        (view(0, beat=beat(phase="snapshot")), RankState.CHECKPOINTING),
        (view(0, beat=beat(phase="checkpoint")), RankState.CHECKPOINTING),
        (view(0, beat=beat(phase="evaluate")), RankState.EVALUATING),
        (view(0, beat=done(1.0)), RankState.SUCCEEDED),
        (view(0, beat=done(1.0), exit=killed(2.0, asked=True)), RankState.SUCCEEDED),
        (view(0, beat=training(3, 1.0), exit=killed(2.0, asked=True)), RankState.STOPPED),
        (view(0, beat=training(3, 1.0), exit=killed(2.0)), RankState.FAILED),
        (view(0, exit=left(0, 2.0)), RankState.SUCCEEDED),
        (view(0, exit=left(1, 2.0)), RankState.FAILED),
    ],
)
def test_states_of_ranks(rank: RankView, state: RankState) -> None:
    """What a table shows follows from the end, else from the phase."""
    assert rank.state() is state


def test_signals_have_names() -> None:
    """Known signals by name, others by number."""
    assert signal_name(9) == "SIGKILL"
    assert signal_name(63) == "signal 63"
