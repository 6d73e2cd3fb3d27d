"""The policy: what a failure is, and what follows from it."""

from __future__ import annotations

import errno
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.health import Sign
from orchestrator.ladder import jittered
from orchestrator.policy import (
    POLICY,
    RULES,
    Action,
    Decision,
    Evidence,
    Finding,
    History,
    backoff,
    classify,
    decide,
    describe_exit,
)
from orchestrator.spec import DEFAULT_BUDGETS, Backoff, Restart, Rule
from orchestrator.states import FailureClass

RESTART = Restart(min_ranks=8)
SCHEDULER_LOST_PORT = "bind: Address already in use"


def exited(code: int = 1, **more: object) -> Evidence:
    """A rank that left with a code."""
    return replace(Evidence(Sign.EXIT, exit_code=code), **more)  # type: ignore[arg-type]


def raised(kind: str, message: str = "", **more: object) -> Evidence:
    """A rank that raised."""
    known = Evidence(Sign.ERROR, exit_code=1, error_type=kind, error_message=message)
    return replace(known, **more)  # type: ignore[arg-type]


EVIDENCE: list[tuple[str, Evidence, FailureClass]] = [
    (
        "checkpoint cannot be loaded",
        raised("CheckpointUnusable", bad_checkpoint="/c/step-00000040"),
        FailureClass.STORAGE,
    ),
    (
        "killed for memory",
        Evidence(Sign.EXIT, signal=9, oom_killed=True),
        FailureClass.OOM,
    ),
    (
        "program cannot be started",
        Evidence(Sign.NOT_STARTED, start_errno=errno.ENOENT),
        FailureClass.USER,
    ),
    (
        "the rank table is not the one that was written",
        Evidence(Sign.NOT_STARTED, start_errno=errno.ESTALE),
        FailureClass.STORAGE,
    ),
    (
        "a device is not well",
        Evidence(Sign.EXIT, signal=9, device_fault="node-0/ascend:3: lost"),
        FailureClass.DEVICE,
    ),
    (
        "no room to start a process",
        Evidence(Sign.NOT_STARTED, start_errno=errno.ENOSPC),
        FailureClass.STORAGE,
    ),
    (
        "a process could not be started",
        Evidence(Sign.NOT_STARTED, start_errno=errno.EAGAIN),
        FailureClass.NODE,
    ),
    ("a process could not be started", Evidence(Sign.NOT_STARTED), FailureClass.NODE),
    (
        "the script ignores the checkpoint it is given",
        Evidence(Sign.IGNORED_RESUME),
        FailureClass.USER,
    ),
    (
        "ranks loaded another checkpoint than they were given",
        Evidence(Sign.WRONG_RESUME),
        FailureClass.STORAGE,
    ),
    ("exit code of a user's mistake (64, 65, 66, 78)", exited(64), FailureClass.USER),
    ("exit code of a user's mistake (64, 65, 66, 78)", exited(65), FailureClass.USER),
    ("exit code of a user's mistake (64, 65, 66, 78)", exited(66), FailureClass.USER),
    ("exit code of a user's mistake (64, 65, 66, 78)", exited(78), FailureClass.USER),
    (
        "asked to be retried after we stopped it (75)",
        exited(75, terminated_by_us=True),
        FailureClass.PREEMPTION,
    ),
    ("asked to be retried (75)", exited(75), FailureClass.PROCESS),
    ("the reported loss is not a number", Evidence(Sign.NUMERIC), FailureClass.NUMERIC),
    ("parameters of ranks differ", Evidence(Sign.DIVERGED), FailureClass.NUMERIC),
    ("no step for too long", Evidence(Sign.HANG), FailureClass.HANG),
    ("the node's supervisor died", Evidence(Sign.SUPERVISOR), FailureClass.NODE),
    (
        "the rendezvous port was taken",
        Evidence(Sign.SCHEDULER, log=SCHEDULER_LOST_PORT),
        FailureClass.RENDEZVOUS,
    ),
    ("the rendezvous scheduler ended", Evidence(Sign.SCHEDULER), FailureClass.RENDEZVOUS),
    (
        "storage is full or failing",
        raised("OSError", error_errno=errno.ENOSPC),
        FailureClass.STORAGE,
    ),
    (
        "storage is full or failing",
        exited(1, log="cp: error writing 'x': No space left on device"),
        FailureClass.STORAGE,
    ),
    ("loss is not a number", raised("FloatingPointError", "loss is nan"), FailureClass.NUMERIC),
    ("out of memory", raised("MemoryError"), FailureClass.OOM),
    ("out of memory", raised("RuntimeError", "std::bad_alloc"), FailureClass.OOM),
    (
        "out of memory",
        Evidence(Sign.EXIT, signal=6, log="what(): std::bad_alloc"),
        FailureClass.OOM,
    ),
    (
        "ranks did not find each other",
        raised("RuntimeError", "Failed to register the compute graph node to the cluster"),
        FailureClass.RENDEZVOUS,
    ),
    (
        "exception before the job's first step",
        raised("ValueError", "no such option", before_first_step=True),
        FailureClass.USER,
    ),
    (
        "ended by MindSpore itself (SIGTERM)",
        Evidence(Sign.EXIT, signal=15, terminated_by="its HCCL watchdog"),
        FailureClass.PROCESS,
    ),
    (
        "terminated from outside (SIGTERM)",
        Evidence(Sign.EXIT, signal=15, before_first_step=True),
        FailureClass.PREEMPTION,
    ),
    ("killed by a signal", Evidence(Sign.EXIT, signal=9), FailureClass.PROCESS),
    (
        "killed by a signal",
        Evidence(Sign.EXIT, signal=9, before_first_step=True),
        FailureClass.PROCESS,
    ),
    ("left before it was done", Evidence(Sign.LEFT_EARLY, exit_code=0), FailureClass.PROCESS),
    ("default", exited(1), FailureClass.PROCESS),
    ("default", raised("RuntimeError", "something else"), FailureClass.PROCESS),
]


@pytest.mark.parametrize(("rule", "evidence", "failure"), EVIDENCE)
def test_rules(rule: str, evidence: Evidence, failure: FailureClass) -> None:
    """Each evidence is found by its rule, under its name."""
    finding = classify(evidence)
    assert (finding.rule, finding.failure) == (rule, failure)


def test_every_rule_can_be_met() -> None:
    """No line of the table is dead: each has an evidence above for which it is the first."""
    own = {rule.name for rule in RULES if not rule.name.startswith("log: ")}  # test_log_patterns
    assert own <= {name for name, _, _ in EVIDENCE}
    assert all(rule.source for rule in RULES)
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))


def test_only_what_is_not_the_jobs_doing_is_free() -> None:
    """A lost port, a stop of ours and one by an outsider cost no budget; nothing else is free."""
    assert {rule.name for rule in RULES if rule.free} == {
        "terminated from outside (SIGTERM)",
        "the rendezvous port was taken",
        "asked to be retried after we stopped it (75)",
    }
    assert classify(Evidence(Sign.SCHEDULER, log=SCHEDULER_LOST_PORT)).free


@pytest.mark.parametrize(
    ("evidence", "failure"),
    [
        # a code of ours that a user chose beats what the log says
        (exited(64, error_message="Out of memory", error_type="X"), FailureClass.USER),
        # a full disk before the first step is the disk's fault
        (raised("OSError", error_errno=errno.EDQUOT, before_first_step=True), FailureClass.STORAGE),
        (raised("MemoryError", before_first_step=True), FailureClass.OOM),
        (
            raised("RuntimeError", "Topology build timed out", before_first_step=True),
            FailureClass.RENDEZVOUS,
        ),
        # the checkpoint's own fault, whatever it looked like
        (raised("MemoryError", bad_checkpoint="/c"), FailureClass.STORAGE),
        (raised("OSError", error_errno=errno.ENOENT), FailureClass.PROCESS),
    ],
)
def test_the_first_rule_that_matches_decides(evidence: Evidence, failure: FailureClass) -> None:
    """Where two rules match, the one further up wins."""
    assert classify(evidence).failure is failure


def test_the_jobs_own_rules_come_first() -> None:
    """A job's rule beats the table, in its own order, and its name says so."""
    own = (
        Rule(failure=FailureClass.NODE, log="EI0006"),
        Rule(failure=FailureClass.DEVICE, log="EI"),
        Rule(failure=FailureClass.PREEMPTION, exit_code=64),
    )
    finding = classify(Evidence(Sign.HANG, log="x\nEI0006 timeout"), own)
    assert finding == Finding(FailureClass.NODE, "the job's rule 'EI0006'")
    assert classify(Evidence(Sign.HANG, log="EI0001"), own).failure is FailureClass.DEVICE
    assert classify(exited(64), own).rule == "the job's rule 'exit code 64'"
    assert classify(exited(65), own).failure is FailureClass.USER


def test_a_rule_with_two_conditions_needs_both() -> None:
    """Log and exit code together."""
    own = (Rule(failure=FailureClass.NODE, log="lost", exit_code=3),)
    assert classify(exited(3, log="lost"), own).failure is FailureClass.NODE
    assert classify(exited(3), own).failure is FailureClass.PROCESS
    assert classify(exited(4, log="lost"), own).failure is FailureClass.PROCESS


def after(failure: FailureClass, used: int, **more: int) -> History:
    """A history with `used` charged failures of a class."""
    return History({failure: used}, **more)


@pytest.mark.parametrize(("failure", "budget"), sorted(DEFAULT_BUDGETS.items(), key=str))
def test_a_budget_is_a_number_of_restarts(failure: FailureClass, budget: int | None) -> None:
    """So many failures of a class are followed by a restart, the next one ends the job."""
    finding = Finding(failure, "r")
    if budget is None:
        decision = decide(finding, after(failure, 1000), RESTART)
        assert decision.retry and decision.budget_left is None
        return
    retried = [decide(finding, after(failure, used), RESTART) for used in range(1, budget + 2)]
    assert [decision.retry for decision in retried] == [True] * budget + [False]
    assert [d.budget_left for d in retried] == [*range(budget - 1, -1, -1), 0]


def test_the_end_names_the_knob() -> None:
    """A job that ends says which setting ended it."""
    spent = decide(Finding(FailureClass.HANG, "r"), after(FailureClass.HANG, 3), RESTART)
    assert "restart.budgets.hang" in spent.reason
    stuck = History({FailureClass.PROCESS: 1}, attempts_without_gain=3)
    assert (
        "restart.no_progress" in decide(Finding(FailureClass.PROCESS, "r"), stuck, RESTART).reason
    )


def test_budgets_do_not_borrow_from_each_other() -> None:
    """Three hangs do not use up what process failures may cost."""
    history = History({FailureClass.HANG: 2, FailureClass.PROCESS: 1})
    assert decide(Finding(FailureClass.PROCESS, "r"), history, RESTART).retry


def test_no_progress_stops_even_what_is_unlimited() -> None:
    """Three attempts in a row for nothing end a job with any budget left."""
    finding = Finding(FailureClass.PREEMPTION, "r")
    assert decide(finding, History({}, attempts_without_gain=2), RESTART).retry
    assert not decide(finding, History({}, attempts_without_gain=3), RESTART).retry


def test_a_users_mistake_may_be_given_a_budget() -> None:
    """Only a job that asks for it retries class user."""
    finding = Finding(FailureClass.USER, "r")
    assert not decide(finding, after(FailureClass.USER, 1), RESTART).retry
    generous = replace(RESTART, budgets={**DEFAULT_BUDGETS, FailureClass.USER: 1})
    assert decide(finding, after(FailureClass.USER, 1), generous).retry
    assert not decide(finding, after(FailureClass.USER, 2), generous).retry


def test_free_failures_do_not_restart_for_ever() -> None:
    """A port that is lost again and again, a hundred times in a row, is no lost race any more."""
    finding = Finding(FailureClass.RENDEZVOUS, "r", free=True)
    assert decide(finding, History({}, failures_in_a_row=2), RESTART).retry
    assert not decide(finding, History({}, failures_in_a_row=100), RESTART).retry


LAW = Backoff(first=1.0, factor=2.0, max=60.0)


def test_the_first_restart_is_at_once() -> None:
    """None, first, first times factor, and so on up to the most."""
    waits = [backoff(failures, LAW) for failures in range(1, 10)]
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**9),
    st.floats(0, 1e6),
    st.floats(1, 100),
    st.floats(0, 1e6),
)
def test_the_wait_is_bounded_and_grows(
    failures: int, first: float, factor: float, most: float
) -> None:
    """Never negative, never above the most, never less than after one failure fewer."""
    law = Backoff(first=first, factor=factor, max=most)
    wait = backoff(failures, law)
    assert 0 <= wait <= most and math.isfinite(wait)
    assert wait <= backoff(failures + 1, law)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(FailureClass),
    st.dictionaries(st.sampled_from(FailureClass), st.integers(0, 20)),
    st.dictionaries(st.sampled_from(FailureClass), st.one_of(st.none(), st.integers(0, 5))),
    st.integers(0, 5),
    st.integers(1, 5),
)
def test_no_restart_beyond_a_budget(
    failure: FailureClass,
    charged: dict[FailureClass, int],
    budgets: dict[FailureClass, int | None],
    without_gain: int,
    no_progress: int,
) -> None:
    """Whatever the history: a restart means budget was left and progress was made."""
    restart = Restart(min_ranks=8, budgets={**DEFAULT_BUDGETS, **budgets}, no_progress=no_progress)
    history = History(charged, attempts_without_gain=without_gain, failures_in_a_row=1)
    decision = decide(Finding(failure, "r"), history, restart)
    budget = restart.budgets[failure]
    if decision.retry:
        assert budget is None or charged.get(failure, 0) <= budget
        assert without_gain < no_progress
    assert decision.budget_left is None or decision.budget_left >= 0
    assert decision.reason


PROCESS = Finding(FailureClass.PROCESS, "r")
WITH_FALLBACK = replace(RESTART, fallback=(("lr", "0.1"),))
SMALL = replace(RESTART, min_ranks=2)

CASES: list[tuple[str, Decision]] = [
    ("a user's mistake", decide(Finding(FailureClass.USER, "r"), History({}), RESTART)),
    ("deterministic, with a fall-back", decide(PROCESS, History({}, repeats=2), WITH_FALLBACK)),
    (
        "deterministic",
        decide(PROCESS, History({}, repeats=3, fallback_used=True), WITH_FALLBACK),
    ),
    ("deterministic", decide(PROCESS, History({}, repeats=2), RESTART)),
    ("budget used up", decide(PROCESS, after(FailureClass.PROCESS, 4), RESTART)),
    ("no progress", decide(PROCESS, History({}, attempts_without_gain=3), RESTART)),
    ("no end", decide(PROCESS, History({}, failures_in_a_row=21), RESTART)),
    ("devices are lacking", decide(PROCESS, History({}), SMALL, ranks=8, whole=False)),
    ("the device is to blame", decide(Finding(FailureClass.DEVICE, "r"), History({}), RESTART)),
    ("otherwise", decide(PROCESS, History({}), RESTART)),
    ("otherwise", decide(PROCESS, History({}), RESTART, ranks=8, whole=False)),
]


@pytest.mark.parametrize(("name", "decision"), CASES)
def test_rows_of_the_policy(name: str, decision: Decision) -> None:
    """Each case is decided by its row, with the row's action and a reason."""
    row = next(row for row in POLICY if row.name == name)
    assert (decision.row, decision.action) == (name, row.action)
    assert decision.fallback is row.fallback
    assert decision.retry is (row.action is not Action.STOP)
    assert decision.reason and row.when


def test_every_row_and_action_can_be_met() -> None:
    """No row is dead, and each rung of the ladder has one."""
    assert [row.name for row in POLICY] == list(dict.fromkeys(name for name, _ in CASES))
    assert {row.action for row in POLICY} == set(Action)


def test_a_repeated_failure_goes_before_its_budget() -> None:
    """A fall-back is one restart more than class numeric has, and the end says what it was."""
    numeric = Finding(FailureClass.NUMERIC, "r")
    spent = History({FailureClass.NUMERIC: 2}, repeats=2)
    assert decide(numeric, spent, WITH_FALLBACK).fallback
    assert "restart.fallback" in decide(numeric, spent, RESTART).reason


def test_a_smaller_world_is_allowed_by_the_job_alone() -> None:
    """`may_shrink` goes with every restart of a job whose min_ranks is below its ranks."""
    assert decide(PROCESS, History({}), SMALL, ranks=8).may_shrink
    assert not decide(PROCESS, History({}), RESTART, ranks=8).may_shrink
    assert not decide(PROCESS, after(FailureClass.PROCESS, 4), SMALL, ranks=8).may_shrink


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1), st.text(max_size=30))
def test_jitter_shortens_and_is_the_same_again(delay: float, jitter: float, seed: str) -> None:
    """Within its part of the wait, and a function of its seed alone."""
    wait = jittered(delay, jitter, seed)
    assert delay * (1 - jitter) * (1 - 1e-12) <= wait <= delay
    assert wait == jittered(delay, jitter, seed)


def test_jobs_that_fail_together_come_back_apart() -> None:
    """Ten runs draw ten waits; without jitter they are equal."""
    history = History({}, failures_in_a_row=6)
    apart = {decide(PROCESS, replace(history, seed=f"r{n}/1"), RESTART).delay for n in range(10)}
    assert len(apart) == 10 and all(14.4 <= wait <= 16 for wait in apart)
    still = replace(RESTART, backoff=replace(LAW, jitter=0.0))
    assert decide(PROCESS, history, still).delay == 16.0


def test_exits_in_words() -> None:
    """A code or a signal's name."""
    assert describe_exit(3, None) == "exit code 3"
    assert describe_exit(None, 15) == "killed by SIGTERM"


def test_a_users_mistake_may_be_retried_without_end() -> None:
    """`unlimited` is more than a number, and not none at all."""
    finding = Finding(FailureClass.USER, "r")
    endless = replace(RESTART, budgets={**DEFAULT_BUDGETS, FailureClass.USER: None})
    assert decide(finding, after(FailureClass.USER, 50), endless).retry
