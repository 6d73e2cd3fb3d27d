"""The store against a model in dictionaries: random histories of submissions and moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ledger import fold
from orchestrator.states import JOB_MOVES, JobState
from orchestrator.store.errors import IllegalMove, KeyReused, Moved
from orchestrator.store.values import Filter, Page, happened
from tests.stores import Head

STATES = st.sampled_from(sorted(JobState, key=lambda state: state.value))
SUBMIT = st.tuples(st.just("submit"), st.integers(1, 3), st.sampled_from([10, 50]))
MOVE = st.tuples(st.just("move"), st.integers(0, 9), STATES, st.none() | STATES, st.text())
LEGAL = st.tuples(st.just("legal"), st.integers(0, 9), st.integers(0, 9), st.text())
"""Mostly steps that can be made, so that histories get far."""
RESTART = st.tuples(st.just("restart"))
HISTORY = st.lists(st.one_of(SUBMIT, MOVE, LEGAL, LEGAL, LEGAL, RESTART), min_size=10, max_size=40)


@dataclass
class Known:
    """What the model knows of a job."""

    job: str
    priority: int
    place: int
    front: bool = False
    history: list[tuple[JobState | None, str]] = field(default_factory=list)

    @property
    def state(self) -> JobState:
        return [state for state, _ in self.history if state][-1]


class Model:
    """Dictionaries that behave as the store should."""

    def __init__(self) -> None:
        self.by_key: dict[int, Known] = {}
        self.jobs: list[Known] = []

    def move(self, job: Known, wanted: JobState | None, reason: str) -> None:
        before = job.state
        job.history.append((wanted, reason))
        if wanted is JobState.QUEUED and before in (JobState.STOPPING, JobState.RECOVERING):
            job.front = True
        if wanted is JobState.QUEUED and before.terminal:
            job.front, job.place = False, max(one.place for one in self.jobs) + 1

    def queue(self) -> list[str]:
        waiting = [one for one in self.jobs if one.state is JobState.QUEUED]
        waiting.sort(key=lambda one: (-one.priority, not one.front, one.place))
        return [one.job for one in waiting]


def submit(head: Head, model: Model, key: int, priority: int) -> None:
    """Submit to both: a new job, the known one, or a refusal of another body."""
    known = model.by_key.get(key)
    if known and known.priority != priority:
        with pytest.raises(KeyReused):
            head.submit(str(key), f"queue.priority={priority}")
        return
    job = head.submit(str(key), f"queue.priority={priority}")
    if known:
        assert job.job == known.job
        return
    place = max((one.place for one in model.jobs), default=0) + 1
    made = Known(job.job, priority, place, history=[(JobState.QUEUED, "job small")])
    model.by_key[key] = made
    model.jobs.append(made)


def move(
    head: Head, model: Model, job: Known, seen: JobState, wanted: JobState | None, reason: str
) -> None:
    """Try a move in both: made, or refused for the reason that the model knows."""
    event = happened("moved", reason, state=wanted)

    def act() -> None:
        head.store.transition(job.job, event, seen=seen, epoch=head.epoch)

    if seen is not job.state:
        with pytest.raises(Moved):
            act()
    elif wanted not in (None, job.state) and wanted not in JOB_MOVES[job.state]:
        with pytest.raises(IllegalMove):
            act()
    else:
        act()
        model.move(job, wanted, reason)


def compare(head: Head, model: Model) -> None:
    """All that can be read is as the model has it."""
    assert head.queue() == model.queue()
    rows = {one.job: one for one in head.store.jobs(page=Page(1000)).jobs}
    assert rows.keys() == {one.job for one in model.jobs}
    for known in model.jobs:
        told = head.store.events(known.job)
        assert [one.sequence for one in told] == list(range(1, len(told) + 1))
        assert [(one.event.state, one.event.reason) for one in told] == known.history
        row, ledger = rows[known.job], fold(one.event for one in told)
        assert (row.state, row.reason, row.last_event) == (known.state, ledger.reason, len(told))
        assert (row.ended_at, row.front, row.place) == (ledger.ended_at, known.front, known.place)
    for state in JobState:
        found = head.store.jobs(Filter(states=frozenset({state}))).jobs
        assert {one.job for one in found} == {o.job for o in model.jobs if o.state is state}


@settings(max_examples=25, deadline=None)
@given(HISTORY)
def test_any_history_is_as_in_the_model(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[object, ...]]
) -> None:
    """Whatever is tried, in whatever order, over restarts: states, events, keys and the queue."""
    path: Path = tmp_path_factory.mktemp("model") / "store" / "muster.db"
    head, model = Head(path), Model()
    try:
        for kind, *given_ in history:
            if kind == "submit":
                submit(head, model, *given_)  # type: ignore[arg-type]
            elif kind == "restart":
                head.store.close()
                head = Head(path)
            elif model.jobs:
                number, *rest = given_
                job = model.jobs[number % len(model.jobs)]  # type: ignore[operator]
                if kind == "legal":
                    choice, reason = rest
                    legal = sorted(JOB_MOVES[job.state], key=lambda state: state.value)
                    rest = [job.state, legal[choice % len(legal)], reason]  # type: ignore[operator]
                move(head, model, job, *rest)  # type: ignore[arg-type]
        compare(head, model)
    finally:
        head.store.close()
