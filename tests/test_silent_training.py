"""A number that is wrong on one of two real MindSpore ranks is found, and the run goes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from model.rehearsal_data import Recipe, make
from tests.runs import SCRIPTS, Job, training_job

pytestmark = pytest.mark.slow


def test_a_changed_number_is_found_within_fifty_steps(tmp_path: Path) -> None:
    """Changed after step 70 of rank 1, told by the digests of step 100, trusted up to step 50."""
    make(tmp_path / "data", Recipe(images=24, val_images=4, seed=3, size=64))
    file = training_job(
        tmp_path, "diverging", 9, every=40, max_steps=130, training_shape=64,
        evaluate_at_end=False, compile_cache=str(tmp_path / "compiled"),
    )  # fmt: skip
    document = yaml.safe_load(file.read_text())
    del document["module"], document["launch"]
    document["checkpoint"]["keep"] = 1  # newer ones alone would all be in doubt
    document["command"] = [sys.executable, str(SCRIPTS / "diverging_trainer.py"), "70"]
    file.write_text(yaml.safe_dump(document))
    job = Job(file, tmp_path / "run")
    done = job.run()
    print((job.run_dir / "attempts/001/logs/rank-1.log").read_text())
    assert done.code == 0, done.text
    (incident,) = job.incidents()
    assert (incident["class"], incident["rank"]) == ("numeric", None)
    assert "after step 100; whose are wrong: not determined" in incident["cause"]
    events = job.events()
    assert [e["data"]["step"] for e in events if e["kind"] == "quarantined"] == [80]
    (second,) = [e for e in events if e["kind"] == "attempt" and e["attempt"] == 2]
    assert second["data"]["resumed_step"] == 40
