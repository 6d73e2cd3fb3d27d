"""Killed and resumed, or left alone: the training ends in the very same bits."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from model.rehearsal_data import Recipe, make
from tests.runs import Job, muster, training_job

pytestmark = pytest.mark.slow

STEPS = 14


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks of the real trainer, with the real network made very small.

    With all that a step may carry from one to the next: sizes in turn, averaged weights. The calm
    run compiles the graphs, the other one takes them.
    """
    directory = tmp_path_factory.mktemp("exact")
    make(directory / "data", Recipe(images=24, val_images=4, seed=3, size=64))
    return training_job(
        directory, "exact", 9, multi_scale=[64, 96], resize_rate=3,
        clip_norm=30, ema_decay=0.9, max_steps=STEPS, compile_cache=str(directory / "graphs"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def calm(job_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The run that nothing happens to; it compiles the graphs for those that follow."""
    job = Job(job_file, tmp_path_factory.mktemp("calm") / "run")
    done = job.run()
    assert done.code == 0, done.text
    return job


def final_state(job: Job, steps: int = STEPS) -> dict[str, Any]:
    """Digest of every saved file after the last step, and the evaluation's figures."""
    manifest = job.run_dir / "checkpoints" / f"step-{steps:08d}" / "MANIFEST.json"
    files = json.loads(manifest.read_text())["files"]
    figures = sorted((job.run_dir / "outputs").rglob("evaluation.json"))
    assert figures, "the evaluation left no figures"
    return {
        "files": {name: entry["sha256"] for name, entry in files.items()},
        "figures": json.loads(figures[-1].read_text()),
    }


def test_a_killed_and_resumed_run_ends_bit_identical(
    job_file: Path, calm: Job, tmp_path: Path
) -> None:
    """Parameters, momentum, every rank's statistics, and the evaluation, compared as bytes."""
    step = random.SystemRandom().randrange(1, STEPS - 5)  # well before the end
    rank = random.SystemRandom().randrange(2)
    broken = Job(job_file, tmp_path / "broken")
    done = broken.run("--drill", f"kill-rank:{rank}@step:{step}")
    told = f"kill-rank:{rank}@step:{step}\n{done.text}"
    assert done.code == 0, told
    assert broken.kinds().count("attempt") == 2, told
    assert final_state(broken) == final_state(calm), told
    assert {"model.ckpt", "rank-1.ckpt", "state.json"} <= final_state(calm)["files"].keys()
    verified = muster("checkpoints", broken.run_dir, "verify", "--json")
    assert verified.code == 0
    assert "coco eval result" in done.out


def test_a_run_resumed_from_a_snapshot_ends_bit_identical(
    job_file: Path, calm: Job, tmp_path: Path
) -> None:
    """Killed between two checkpoints, it has lost no more than the steps since the snapshot."""
    every = 3
    step = random.SystemRandom().randrange(every + 1, STEPS - 4)
    rank = random.SystemRandom().randrange(2)
    job = Job(job_file, tmp_path / "snapped")
    settings = ("checkpoint.every_steps=1000", f"checkpoint.snapshot_every_steps={every}")
    done = job.run(
        *(part for setting in settings for part in ("--set", setting)),
        "--drill", f"kill-rank:{rank}@step:{step}",
    )  # fmt: skip
    told = f"kill-rank:{rank}@step:{step}\n{done.text}"
    assert done.code == 0, told
    _, resumed = [event["data"] for event in job.events() if event["kind"] == "attempt"]
    assert resumed["resumed_from"].startswith("/dev/shm/"), told
    [incident] = job.incidents()
    assert incident["steps_lost"] <= every, told
    assert final_state(job) == final_state(calm), told


def test_a_missing_data_directory_is_the_users_mistake(job_file: Path, tmp_path: Path) -> None:
    """Exit code 66 of the trainer, one attempt, and a message that says where it looked."""
    job = Job(job_file, tmp_path / "run")
    done = job.run("--set", f"args.data_dir={tmp_path}/nowhere")
    assert done.code == 1, done.text
    [incident] = job.incidents()
    assert incident["class"] == "user"
    assert "nowhere" in done.text
    assert job.kinds().count("attempt") == 1


def test_an_unreadable_annotation_file_is_the_users_mistake(job_file: Path, tmp_path: Path) -> None:
    """A truncated annotation file is named, and nothing is retried."""
    data = tmp_path / "data"
    make(data, Recipe(images=8, val_images=2, seed=3, size=64))
    annotations = data / "annotations" / "instances_train2017.json"
    annotations.write_bytes(annotations.read_bytes()[:200])
    job = Job(job_file, tmp_path / "run")
    done = job.run("--set", f"args.data_dir={data}")
    assert done.code == 1, done.text
    assert [incident["class"] for incident in job.incidents()] == ["user"]
    assert "instances_train2017.json" in done.text
