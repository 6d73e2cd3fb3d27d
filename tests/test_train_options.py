"""The trainer as a user runs it alone, with what the original's users may ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.rehearsal_data import Recipe, make
from tests.tiny_network import ARCHITECTURE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMON = (
    *ARCHITECTURE, "--device_target=CPU", "--per_batch_size=2", "--training_shape=64",
    "--freeze_backbone=0", "--backbone_bn=batch", "--ckpt_interval=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a dozen pictures."""
    folder = tmp_path_factory.mktemp("data")
    make(folder, Recipe(images=12, val_images=2, seed=3, size=64))
    return folder


def train(folder: Path, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the trainer in `folder` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "model.train", f"--data_dir={data}", *COMMON,
         f"--compile_cache={data / 'cache'}", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_every_step_is_told_by_part_and_head(tmp_path: Path, data: Path) -> None:
    """Records and log lines of a run hold what a person needs to see how it went."""
    done = train(tmp_path, data, "--max_steps=3")
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "outputs").glob("*/metrics.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    for record in records:
        parts = [part for head in record["parts"].values() for part in head.values()]
        assert len(parts) == 12
        assert sum(parts) == pytest.approx(record["loss"], rel=1e-4)
        assert record["gradient_norm"] > 0
        assert record["images_per_second"] > 0
        assert record["data_wait_seconds"] >= 0
        assert record["skipped"] is False
    assert "data wait: " in done.stdout
    assert "0 steps skipped" in done.stdout


def test_profiling_ends_after_its_steps(tmp_path: Path, data: Path) -> None:
    """need_profiler trains eleven steps, leaves a trace and a checkpoint, and says so."""
    done = train(tmp_path, data, "--need_profiler=1", "--max_epoch=9")
    assert done.returncode == 0, done.stderr
    assert "training ends after them" in done.stdout
    traces = list((tmp_path / "outputs").glob("*/profile/**/trace_view.json"))
    assert traces
    assert json.loads(traces[0].read_text())
    assert list((tmp_path / "outputs").glob("*/checkpoints/step-00000011"))


def test_gradients_that_stay_infinite_end_the_run(tmp_path: Path, data: Path) -> None:
    """Under a loss scale too large for 16 bits steps are skipped, up to the limit."""
    arguments = ("--precision=float16", "--loss_scale=1e30", "--overflow_limit=1")
    done = train(tmp_path, data, *arguments, "--max_steps=5")
    assert done.returncode == 1
    assert "step 1 skipped" in done.stdout
    assert "lower loss_scale or lr (overflow_limit=1" in done.stderr
    assert not list((tmp_path / "outputs").glob("*/checkpoints/step-*"))


def test_fine_tuning_draws_new_heads_where_it_is_told_to(tmp_path: Path, data: Path) -> None:
    """Weights for other classes are refused with the reason, and loaded with --reset_head."""
    first = train(tmp_path, data, "--max_steps=2", f"--checkpoint_dir={tmp_path / 'first'}")
    assert first.returncode == 0, first.stderr
    weights = tmp_path / "first" / "step-00000002"
    state = json.loads((weights / "state.json").read_text())
    other = [{**row, "name": f"other {row['name']}"} for row in state["categories"]]
    (weights / "state.json").write_text(json.dumps({**state, "categories": other}))
    refused = train(tmp_path, data, "--max_steps=1", f"--resume_yolov3={weights}")
    assert refused.returncode == 65
    assert "reset_head" in refused.stderr
    tuned = train(tmp_path, data, "--max_steps=1", f"--resume_yolov3={weights}", "--reset_head=1")
    assert tuned.returncode == 0, tuned.stderr
    assert tuned.stdout.count("not loaded but drawn anew") == 6
