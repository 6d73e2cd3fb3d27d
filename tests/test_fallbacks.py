"""Retention beside digests: what a run falls back to when its ranks are found to differ."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.attempt import Unstartable
from orchestrator.checkpoints import catalogue
from orchestrator.journal import Journal, read_events
from orchestrator.keeper import CheckpointKeeper
from orchestrator.layout import RunDirectory
from orchestrator.ledger import fold
from orchestrator.recorder import Recorder
from orchestrator.states import JobState
from tests.support_core import write_checkpoint


class Quiet:
    """Shows nothing."""

    def event(self, event: object) -> None:
        """Nobody looks."""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run directory without checkpoints."""
    directory = RunDirectory(tmp_path / "run")
    directory.checkpoints.mkdir(parents=True)
    Journal(directory.events).append("created", "", state=JobState.QUEUED)
    return directory


def controller(run: RunDirectory) -> CheckpointKeeper:
    """The keeper of a controller that has just come, which knows what the journal says."""
    known = fold(read_events(run.events))
    return CheckpointKeeper(run, Recorder(Journal(run.events), Quiet(), known), keep=1)


def begin(one: CheckpointKeeper, number: int, chosen: Path | None = None) -> None:
    """Record that an attempt begins from a checkpoint."""
    data: dict[str, Any] = {"resumed_step": 0, "resumed_from": None}
    if chosen is not None:
        step = int(chosen.name.removeprefix("step-"))
        data = {"resumed_step": step, "resumed_from": str(chosen), "digest": "d"}
    one._recorder.record("attempt", attempt=number, sources="s", world_size=2, **data)


def save(one: CheckpointKeeper, run: RunDirectory, steps: Iterable[int]) -> None:
    """Checkpoints come, one after the other, and each is looked at."""
    for step in steps:
        write_checkpoint(run.checkpoints, step)
        one.settle()


def steps(run: RunDirectory) -> list[int]:
    """What is there, newest first."""
    return [one.step for one in catalogue(run.checkpoints)]


def test_without_digests_retention_is_as_ever(run: RunDirectory) -> None:
    """`keep` of them."""
    one = controller(run)
    begin(one, 1)
    save(one, run, [10, 20, 30])
    assert steps(run) == [30]
    one.close()


def test_what_was_agreed_on_outlives_newer_ones(run: RunDirectory) -> None:
    """Newer ones alone would be no use to a run whose ranks differ; later it goes."""
    one = controller(run)
    begin(one, 1)
    save(one, run, [40])
    one.agreed = {0, 50}
    save(one, run, [60, 70])
    assert steps(run) == [70, 40]
    one.distrust(50, "ranks differ")
    chosen = one.choose(2)
    assert chosen is not None and chosen.step == 40
    one.agreed = {100, 150}
    save(one, run, [80, 140, 160])
    assert steps(run) == [160, 140, 80]
    one.agreed = {150, 200}
    one.settle()
    assert steps(run) == [160, 140]
    one.close()


def test_a_later_controller_knows_it_too(run: RunDirectory) -> None:
    """From the journal, before any rank has told another digest."""
    one = controller(run)
    begin(one, 1)
    save(one, run, [40])
    one.agreed = {0, 50}
    save(one, run, [60])
    one.close()
    later = controller(run)
    save(later, run, [70, 80])
    assert steps(run) == [80, 40]
    later.close()


def test_what_an_attempt_began_with_is_left_until_its_ranks_agree(run: RunDirectory) -> None:
    """Once digests have been told: until then it is what all had last; then it goes as others."""
    one = controller(run)
    begin(one, 1)
    one.agreed = {0, 50}
    save(one, run, [60])
    one.agreed = ()
    begin(one, 2, run.checkpoints / "step-00000060")
    save(one, run, [70, 80, 90])
    assert steps(run) == [90, 60]
    one.close()
    later = controller(run)
    save(later, run, [95])
    assert steps(run) == [95, 60]
    later.agreed = {100, 150}
    save(later, run, [110, 160])
    assert steps(run) == [160, 110, 95]
    later.close()


def test_an_attempt_that_began_with_nothing_may_begin_anew(run: RunDirectory) -> None:
    """Where its first checkpoint is newer than what its ranks last agreed on."""
    one = controller(run)
    begin(one, 1)
    one.agreed = {0, 50}
    save(one, run, [60, 70])
    one.distrust(50, "ranks differ")
    assert steps(run) == [] and one.choose(2) is None
    assert [e.kind for e in read_events(run.events)][-1] == "anew"
    one.close()


def test_an_attempt_that_went_on_never_begins_anew(run: RunDirectory) -> None:
    """What it had begun with is gone: a run does not start from scratch by itself."""
    one = controller(run)
    begin(one, 1)
    save(one, run, [60])
    begin(one, 2, run.checkpoints / "step-00000060")
    save(one, run, [70])
    one.distrust(60, "ranks differ")
    with pytest.raises(Unstartable):
        one.choose(2)
    one.close()
