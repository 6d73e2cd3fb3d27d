"""A hang of real MindSpore ranks: one sleeps in Python, the others wait for it in an AllReduce."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from orchestrator.stacks import main_thread, parse
from tests.runs import SCRIPTS, Job

pytestmark = pytest.mark.slow

BESIDE = SCRIPTS.parent / "benchmarks" / "scripts" / "allreduce.py"


def test_who_keeps_the_others_waiting_in_an_all_reduce_is_named(tmp_path: Path) -> None:
    """The stacks of ranks inside the C++ of a collective are there; the sleeper is blamed."""
    for script in (SCRIPTS / "sleeper.py", BESIDE):
        shutil.copy(script, tmp_path)
    document = {
        "version": 1,
        "name": "sleeper",
        "module": "sleeper",
        "workdir": str(tmp_path),
        "resources": {"device": "cpu", "ranks": 2},
        "launch": {"mode": "dynamic", "preload": ["mindspore"]},
        "health": {"heartbeat_timeout": "15s"},
    }
    job = Job(tmp_path / "job.yaml", tmp_path / "run")
    job.file.write_text(yaml.safe_dump(document))
    done = job.run()
    assert done.code == 0, done.text
    [incident] = job.incidents()
    assert (incident["class"], incident["rank"]) == ("hang", 1)
    assert "in doze: time.sleep(3600), while rank 0 waits inside the framework" in incident["cause"]
    waits = (job.run_dir / "attempts/001/evidence/rank-0.stacks").read_text()
    main = main_thread(parse(waits))
    assert main is not None and "train" in [frame.function for frame in main.frames]
    unharmed = (job.run_dir / "attempts/002/evidence/rank-1.stacks").read_text()
    assert "in train" in unharmed
