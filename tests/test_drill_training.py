"""Faults in real MindSpore ranks: two of the detector's trainer, in the phases that only they have.

Each run passes through several faults, one an attempt, and ends in the bits of the calm one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from model.rehearsal_data import Recipe, make
from tests import matrix
from tests.runs import Job, training_job
from tests.test_exact_resume import final_state

pytestmark = pytest.mark.slow

STEPS, EVERY = 160, 40

STORY = (
    "kill-scheduler@phase:compile",
    "kill-rank:0@phase:checkpoint",
    "preempt@step:90",
    "term-rank:1@step:125",
)
"""Faults of one run: asked from outside, and killed where a graph or a checkpoint is made."""

STORIES = {
    "early": ("kill-rank:1@phase:join", "oom-rank:0@step:60"),
    "late": ("kill-rank:1@phase:evaluate",),
    "node": ("kill-supervisor@step:70", "kill-raylet@step:20"),
    "damage": ("truncate-checkpoint@step:90", "kill-rank:1@step:95"),
    "slow": ("slow-rank:1@step:10",),
}


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As small as may be: one graph, compiled once, and steps of some 60 ms."""
    directory = tmp_path_factory.mktemp("drills")
    make(directory / "data", Recipe(images=24, val_images=4, seed=3, size=64))
    return training_job(
        directory, "drills", 9, every=EVERY, clip_norm=30, ema_decay=0.9, max_steps=STEPS,
        training_shape=64, compile_cache=str(directory / "compiled"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def calm(job_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run that nobody disturbs; it compiles for all others."""
    task = Job(job_file, tmp_path_factory.mktemp("calm") / "run")
    done = task.run()
    assert done.code == 0, done.text
    return task


def hold(job_file: Path, calm: Job, directory: Path, faults: tuple[str, ...]) -> None:
    """A run with its faults: every verdict good, and no bit is another."""
    task = Job(job_file, directory / "run")
    done = task.run(*[item for fault in faults for item in ("--drill", fault)])
    found = matrix.verdicts(task)
    assert sorted(one["fault"] for one in found) == sorted(faults), done.text
    assert all(map(matrix.kept_word, found)), done.text
    assert final_state(task, STEPS) == final_state(calm, STEPS), done.text


def test_the_real_trainer_keeps_the_promise(job_file: Path, calm: Job, tmp_path: Path) -> None:
    """SIGTERM and a preemption lose no step; what is killed comes back in the same bits."""
    hold(job_file, calm, tmp_path, STORY)


@pytest.mark.soak
@pytest.mark.parametrize("story", STORIES)
def test_the_real_trainer_keeps_every_promise(
    job_file: Path, calm: Job, tmp_path: Path, story: str
) -> None:
    """More kinds in more phases."""
    hold(job_file, calm, tmp_path, STORIES[story])
