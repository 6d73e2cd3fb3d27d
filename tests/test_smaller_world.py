"""A job that loses a device goes on with fewer, and comes back to full size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.rehearsal import break_node, create
from model.coco import CocoDataset
from model.rehearsal_data import Recipe, make
from model.sampling import step_positions
from tests.runs import SCRIPTS, Job, end, muster, poll, training_job, worker_job
from tests.simulated import node

pytestmark = pytest.mark.slow

EIGHT = {
    "resources": {"device": "ascend", "ranks": 8},
    "launch": {"mode": "rank_table"},
    "restart": {"min_ranks": 4},
    "checkpoint": {"every_steps": 5},
}


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeDirectory]:
    """A 910B3 server of eight cards that stands in for this machine's devices."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 8))
    monkeypatch.setenv(VARIABLE, str(directory.root))
    yield directory


def start(job: Job, *arguments: str, command: str = "run") -> subprocess.Popen[bytes]:
    """`muster run` or `resume` in the background, by `scripts/hasty.py`."""
    named = [str(job.file), "--run-dir", str(job.run_dir)]
    named = named if command == "run" else [str(job.run_dir)]
    with open(job.run_dir.with_suffix(".out"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, str(SCRIPTS / "hasty.py"), command, *named, *arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def attempts(job: Job) -> list[dict[str, Any]]:
    """What was journalled of each attempt."""
    return [event["data"] for event in job.events() if event["kind"] == "attempt"]


def clear(directory: NodeDirectory) -> None:
    """Every device is well again."""
    done = muster("devices", "simulate", "--dir", directory.root, "--clear", "all")
    assert done.code == 0, done.text


def stepping(job: Job, attempt: int) -> bool:
    """Whether the ranks of an attempt, and not of an earlier one, have made steps."""
    status = job.status()
    return status["attempt"] == attempt and all(rank["step"] for rank in status["ranks"])


def test_a_lost_device_halves_the_world_and_its_return_doubles_it(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """8 ranks, then 4 processes of 2, then 8 again: one failure charged, nothing for the growth."""
    job = worker_job(tmp_path, args={"steps": 100_000, "pause": "0.02"}, **EIGHT)
    process = start(job, "--drill", "lose-device:5@step:12")
    try:
        poll(lambda: len(attempts(job)) == 2 and stepping(job, 2), what="it goes on smaller")
        status = job.status()
        assert status["world"] == {"ranks": 8, "processes": 4, "virtual_ranks": 2}
        assert len(status["ranks"]) == 4
        shown = " ".join(muster("status", job.run_dir).out.split())
        assert "4 of 8 ranks' devices (2 virtual ranks each)" in shown
        assert attempts(job)[1]["resumed_step"] == 10
        environment = json.loads((job.run_dir / "attempts/002/plan.json").read_text())["ranks"]
        assert [one["env"]["MUSTER_RANKS"] for one in environment] == ["8"] * 4
        assert [one["env"]["RANK_SIZE"] for one in environment] == ["4"] * 4
        assert "ascend:5" not in [one["device"] for one in environment]
        clear(rehearsal)
        poll(lambda: len(attempts(job)) == 3 and stepping(job, 3), what="it is whole again")
        assert job.status()["world"]["virtual_ranks"] == 1
    finally:
        end(process)
    first, second, third = attempts(job)
    assert [one["ranks"] for one in (first, second, third)] == [8, 4, 8]
    assert [one["world_size"] for one in (first, second, third)] == [8, 8, 8]
    assert [one["class"] for one in job.incidents()] == ["device"]
    assert job.status()["restarts"] == {"device": 1}
    [ended] = [
        e["data"] for e in job.events() if e["kind"] == "attempt_ended" and e["attempt"] == 2
    ]
    assert third["resumed_step"] == ended["last_step"] > 10, "no step is trained again"


def test_a_controller_that_dies_while_small_goes_on_small(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """`resume` does not wait for a device that is away, since the job has run without it."""
    job = worker_job(tmp_path, args={"steps": 100_000, "pause": "0.02"}, **EIGHT)
    process = start(job, "--drill", "lose-device:0@step:7")
    try:
        poll(lambda: len(attempts(job)) == 2 and stepping(job, 2), what="it goes on smaller")
        process.kill()
        process.wait()
        process = start(job, command="resume")
        poll(lambda: len(attempts(job)) == 3 and stepping(job, 3), what="it goes on")
        assert [one["ranks"] for one in attempts(job)] == [8, 4, 4]
    finally:
        end(process)


def test_too_few_devices_are_waited_for(rehearsal: NodeDirectory, tmp_path: Path) -> None:
    """Fewer than `min_ranks` will not do: the job waits, and says what for."""
    job = worker_job(tmp_path, args={"steps": 60}, **EIGHT)
    for number in range(1, 5):
        break_node(rehearsal.root, f"lost:{number}")
    done = job.run()
    assert done.code == 1 and attempts(job) == [], "a first attempt is never smaller"
    clear(rehearsal)
    process = start(job, "--drill", "lose-device:5@step:12", command="resume")
    try:
        poll(lambda: attempts(job), what="it starts")
        for number in range(1, 5):
            break_node(rehearsal.root, f"lost:{number}")
        poll(lambda: "waiting" in job.kinds(), what="it waits")
        clear(rehearsal)
        assert process.wait(120) == 0, job.output()
    finally:
        end(process)
    assert attempts(job)[-1]["ranks"] == 8


def test_the_real_trainer_goes_on_with_half_and_comes_back(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """Four ranks, then two processes of two, then four: no step is lost, nor a rank's samples."""
    for number in range(4, 8):
        break_node(rehearsal.root, f"lost:{number}")
    make(tmp_path / "data", Recipe(images=16, val_images=4, seed=3, size=64))
    file = training_job(tmp_path, "ascend", 3, every=2, training_shape=64, max_steps=20_000,
                        max_epoch=5000, evaluate_at_end=False)  # fmt: skip
    document = yaml.safe_load(file.read_text())
    document["resources"] = {"device": "ascend", "ranks": 4}
    document["restart"] = {"min_ranks": 2}
    file.write_text(yaml.safe_dump(document))
    job = Job(file, tmp_path / "run")
    process = start(job, "--drill", "lose-device:1@step:5")
    try:
        poll(lambda: len(attempts(job)) == 2 and stepping(job, 2), what="it goes on with two")
        clear(rehearsal)
        poll(lambda: len(attempts(job)) == 3 and stepping(job, 3), what="there are four again")
    finally:
        end(process)
    assert [one["ranks"] for one in attempts(job)] == [4, 2, 4]
    lines = (job.run_dir / "metrics.jsonl").read_text().splitlines()
    kept = {line["step"]: line for line in map(json.loads, lines) if "loss" in line}
    assert list(kept) == list(range(1, max(kept) + 1)), "no step is lost"
    proofs = [e["data"]["proofs"] for e in job.events() if e["kind"] == "resumed"]
    small, whole = [{one["rank"]: one for one in told} for told in proofs]
    order = {rank: step_positions(16, 2, 4, rank, small[0]["step"]).tolist() for rank in range(4)}
    ids = [image.id for image in CocoDataset.load(tmp_path / "data", "train2017").images]
    assert small[0]["next_samples"] == [ids[i] for i in (*order[0], *order[1])]
    assert small[1]["next_samples"] == [ids[i] for i in (*order[2], *order[3])]
    order = {rank: step_positions(16, 2, 4, rank, whole[0]["step"]).tolist() for rank in range(4)}
    assert {rank: one["next_samples"] for rank, one in whole.items()} == {
        rank: [ids[i] for i in positions] for rank, positions in order.items()
    }
