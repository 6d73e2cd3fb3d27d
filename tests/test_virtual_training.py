"""The real trainer in a smaller world: like the full one, resumable, and back again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml

from model.rehearsal_data import Recipe, make
from tests.runs import DEADLINE, Job, training_job

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
"""Of the largest number of a tensor. With N = 2 gradients are summed in the same order; what is
left is how kernels share their work among threads, here the same for both: nothing was found."""


@dataclass(frozen=True)
class World:
    """The job of two ranks trained in full, to step 12; every second step is a checkpoint."""

    job: Job

    def small(self, run: Path, start: int, stop: int, source: Path | None = None) -> Path:
        """Train from `start` to `stop` in one process as two virtual ranks; its checkpoints."""
        source = (source or self.job.run_dir / "checkpoints") / f"step-{start:08d}"
        target = run / "checkpoints"
        target.mkdir(parents=True, exist_ok=True)
        (run / "attempts/001").mkdir(parents=True, exist_ok=True)
        arguments = {**yaml.safe_load(self.job.file.read_text())["args"], "max_steps": stop}
        done = subprocess.run(
            [
                sys.executable, "-m", "model.train",
                *(f"--{name}={value}" for name, value in arguments.items()),
            ],
            env=self._environment(run, source),
            cwd=run,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 ranks are computed by 1 processes" in done.stdout
        return target

    def _environment(self, run: Path, source: Path) -> dict[str, str]:
        plan = json.loads((self.job.run_dir / "attempts/001/plan.json").read_text())
        same = plan["ranks"][0]["env"]
        return {
            **os.environ,
            "OMP_NUM_THREADS": same["OMP_NUM_THREADS"],
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MUSTER_JOB": "small",
            "MUSTER_ATTEMPT": "1",
            "MUSTER_RUN_DIR": str(run),
            "MUSTER_BACKEND": "cpu",
            "MUSTER_RANKS": "2",
            "RANK_SIZE": "1",
            "MUSTER_RESUME_FROM": str(source),
            "MUSTER_CHECKPOINT": json.dumps(
                {"directory": str(run / "checkpoints"), "every_steps": 2}
            ),
            "MUSTER_ERROR_FILE": str(run / "attempts/001/rank-0.json"),
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The full world, undisturbed."""
    folder = tmp_path_factory.mktemp("world")
    make(folder / "data", Recipe(images=16, val_images=4, seed=3, size=64))
    # The average too, and a norm that clips now and then.
    file = training_job(
        folder, "full", 20, every=2, training_shape=64, max_steps=12, ema_decay=0.9,
        clip_norm=30.0, evaluate_at_end=False,
    )  # fmt: skip
    job = Job(file, folder / "run")
    done = job.run()
    assert done.code == 0, done.text
    return World(job)


def read(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    """All parameters of a checkpoint, by file and name."""
    return {
        file.name: {name: row.asnumpy() for name, row in ms.load_checkpoint(str(file)).items()}
        for file in sorted(directory.glob("*.ckpt"))
    }


def farthest(one: Path, other: Path) -> float:
    """The largest difference of two checkpoints, in parts of the largest number of a tensor."""
    mine, its = read(one), read(other)
    assert mine.keys() == its.keys() == {"model.ckpt", "ema.ckpt", "rank-1.ckpt"}
    worst = 0.0
    for file, rows in mine.items():
        assert rows.keys() == its[file].keys()
        for name, row in rows.items():
            scale = max(float(np.abs(row).max(initial=0)), 1e-12)
            worst = max(worst, float(np.abs(row - its[file][name]).max(initial=0)) / scale)
    return worst


def test_a_smaller_world_trains_like_the_full_one_and_hands_back(
    world: World, tmp_path: Path
) -> None:
    """From the same checkpoint: parameters, momentum, average and both ranks' statistics agree."""
    full = world.job.run_dir / "checkpoints"
    small = world.small(tmp_path / "small", 4, 8)
    for step in (6, 8):
        worst = farthest(full / f"step-{step:08d}", small / f"step-{step:08d}")
        print(f"step {step}: {worst:.3g}")
        assert worst <= TOLERANCE
    states = [json.loads((each / "step-00000008/state.json").read_text()) for each in (full, small)]
    assert states[0] == states[1]
    manifests = [
        json.loads((each / "step-00000008/MANIFEST.json").read_text()) for each in (full, small)
    ]
    assert manifests[0]["world_size"] == manifests[1]["world_size"] == 2
    assert manifests[0]["files"].keys() == manifests[1]["files"].keys()
    before = read(full / "step-00000004")
    after = read(small / "step-00000008")
    assert any(not np.array_equal(row, after["rank-1.ckpt"][name])
               for name, row in before["rank-1.ckpt"].items())  # fmt: skip
    mean = next(name for name in after["rank-1.ckpt"] if name.endswith("moving_mean"))
    assert not np.array_equal(after["rank-1.ckpt"][mean], after["model.ckpt"][mean])


def test_a_smaller_world_that_is_resumed_is_the_undisturbed_one(
    world: World, tmp_path: Path
) -> None:
    """Every byte of the parameters, and the samples that it says come next."""
    straight = world.small(tmp_path / "straight", 4, 10)
    world.small(tmp_path / "broken", 4, 6)
    again = world.small(tmp_path / "again", 6, 10, tmp_path / "broken" / "checkpoints")
    assert farthest(straight / "step-00000010", again / "step-00000010") == 0.0
    proof = json.loads((tmp_path / "again/attempts/001/rank-0.resumed.json").read_text())
    assert proof["step"] == 6 and len(proof["next_samples"]) == 4
