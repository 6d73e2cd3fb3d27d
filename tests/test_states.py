"""States: what they say about themselves and which moves are legal."""

from __future__ import annotations

import pytest

from orchestrator.states import JOB_MOVES, FailureClass, JobState, RankState

ENDS = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


def test_terminal_states_are_the_three_ends() -> None:
    """A job has ended when it succeeded, failed or was cancelled, and then holds nothing."""
    assert {state for state in JobState if state.terminal} == ENDS
    assert not any(state.holds_devices for state in ENDS)


def test_waiting_jobs_hold_no_devices() -> None:
    """Devices are held from the start to the stop, also while a node cannot be reached."""
    holding = {state for state in JobState if state.holds_devices}
    assert holding == set(JobState) - ENDS - {JobState.QUEUED, JobState.HELD}


def test_every_state_has_its_moves() -> None:
    """The table of moves knows every state, and no state may become itself."""
    assert set(JOB_MOVES) == set(JobState)
    assert not any(state.may_become(state) for state in JobState)


@pytest.mark.parametrize("state", sorted(ENDS, key=lambda state: state.value))
def test_ended_jobs_only_queue_again(state: JobState) -> None:
    """From an end there is one way: a person's resume."""
    assert JOB_MOVES[state] == {JobState.QUEUED}


def test_a_running_job_is_stopped_before_it_fails() -> None:
    """No job fails or is cancelled with processes: it passes through STOPPING."""
    for state in (JobState.RUNNING, JobState.STARTING):
        assert state.may_become(JobState.STOPPING)
        assert not state.may_become(JobState.CANCELLED)
        assert not state.may_become(JobState.RECOVERING)
    assert not JobState.RUNNING.may_become(JobState.FAILED)


def test_every_state_can_be_reached_and_left() -> None:
    """From QUEUED a job can get to every state, and from every state back to QUEUED."""

    def reachable(start: JobState) -> set[JobState]:
        seen, todo = {start}, [start]
        while todo:
            for state in JOB_MOVES[todo.pop()] - seen:
                seen.add(state)
                todo.append(state)
        return seen

    assert reachable(JobState.QUEUED) == set(JobState)
    assert all(JobState.QUEUED in reachable(state) for state in JobState)


def test_success_comes_from_running_only() -> None:
    """Nothing succeeds that did not run."""
    before = {state for state, moves in JOB_MOVES.items() if JobState.SUCCEEDED in moves}
    assert before == {JobState.RUNNING}


def test_ended_ranks() -> None:
    """A rank that is lost or hung counts as ended, one that trains does not."""
    ended = {"SUCCEEDED", "FAILED", "STOPPED", "LOST", "HUNG"}
    assert {state.value for state in RankState if state.ended} == ended


def test_only_device_failures_bar_a_device() -> None:
    """A device is barred if, and only if, the class blames it."""
    blamed = {failure for failure in FailureClass if failure.blames_device}
    assert blamed == {FailureClass.DEVICE}
