"""What `then:` and `after:` do: a job that follows another one starts from what that has left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.attempt import Unstartable
from orchestrator.checkpoints import Broken
from orchestrator.follow_up import follow_up
from orchestrator.jobfile import from_document, loads
from orchestrator.journal import Journal
from orchestrator.keeper import CheckpointKeeper
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder
from orchestrator.spec import LaunchMode, to_document
from orchestrator.states import JobState
from tests.runs import worker_job
from tests.support_core import write_checkpoint

TELL = ["/bin/sh", "-c", 'echo "from=$MUSTER_RESUME_FROM size=$RANK_SIZE"']


def test_a_follow_up_is_a_job_of_one_rank(tmp_path: Path) -> None:
    """It has the job's directory and environment, starts after it, and has no follow-up itself."""
    text = f"""
version: 1
name: {"n" * 63}
module: model.train
workdir: {tmp_path}
env: {{A: b}}
resources: {{device: ascend, ranks: 8}}
restart: {{min_ranks: 8}}
queue: {{priority: 7}}
then: {{module: model.evaluate, args: {{testing_shape: 416}}}}
"""
    spec = loads(text)
    then = follow_up(spec, tmp_path / "run")
    assert then is not None
    assert (then.module, then.argv_args) == ("model.evaluate", ("--testing_shape=416",))
    assert (then.resources.ranks, then.restart.min_ranks) == (1, 1)
    assert then.resources.device is spec.resources.device
    assert then.launch.mode is LaunchMode.NONE
    assert (then.workdir, then.env, then.queue) == (spec.workdir, spec.env, spec.queue)
    assert then.after == tmp_path / "run"
    assert len(then.name) == 63
    assert then.name.endswith("-then")
    assert follow_up(then, tmp_path) is None
    assert from_document(to_document(then)) == then


def test_a_follow_up_runs_after_the_success(tmp_path: Path) -> None:
    """`run` goes on with it below the run directory, from the newest checkpoint."""
    job = worker_job(
        tmp_path,
        args={"steps": 12, "pause": 0.0},
        checkpoint={"every_steps": 4},
        then={"command": TELL},
    )
    done = job.run("--json")
    assert done.code == 0
    status = done.json()
    assert status["state"] == status["then"]["state"] == "SUCCEEDED"
    newest = job.run_dir / "checkpoints" / "step-00000012"
    log = job.run_dir / "then" / "attempts" / "001" / "logs" / "rank-0.log"
    assert log.read_text() == f"from={newest} size=1\n"


def test_after_a_run_that_left_nothing_usable(tmp_path: Path) -> None:
    """It is refused with what is wrong, and nothing of the other run is touched."""
    before = tmp_path / "before"
    (before / "checkpoints" / "step-00000004").mkdir(parents=True)
    job = worker_job(tmp_path, args={"steps": 4}, after=str(before))
    done = job.run()
    assert done.code == 1
    assert "no checkpoint of the run in `after` can be used" in done.text
    assert (before / "checkpoints" / "step-00000004").is_dir()
    shutil.rmtree(before)


class Nobody:
    """Shows nothing."""

    def event(self, event: object) -> None:
        """Nobody looks."""


def test_what_another_run_has_left_is_never_moved(tmp_path: Path) -> None:
    """One that the ranks cannot load stays where it is; the one before it is tried, then none."""
    before, run = RunDirectory(tmp_path / "before"), RunDirectory(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    Journal(run.events).append("created", "", state=JobState.QUEUED)
    older, newer = (write_checkpoint(before.checkpoints, step) for step in (4, 8))
    recorder = Recorder(Journal(run.events), Nobody())
    keeper = CheckpointKeeper(run, recorder, keep=5, after=before)
    for path in (newer, older):
        chosen = keeper.choose(1)
        assert chosen is not None and chosen.path == path
        keeper.quarantine(Broken(chosen.path, chosen.step, "another network"))
    with pytest.raises(Unstartable, match="another network"):
        keeper.choose(1)
    keeper.close()
    assert newer.is_dir() and older.is_dir()
    assert not recorder.ledger.ever_checkpointed
