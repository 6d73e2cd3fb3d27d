"""Hangs of real runs: found, looked at before the kill, and named where one rank is the cause."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs import Job, worker_job

pytestmark = pytest.mark.slow

SOON = {"health": {"heartbeat_timeout": "2s"}}


def hang(tmp_path: Path, how: str, **fields: Any) -> tuple[Job, dict[str, Any]]:
    """A run that hangs once and recovers; with its incident."""
    job = worker_job(
        tmp_path,
        args={"steps": 20, "fail": how},
        checkpoint={"every_steps": 5},
        restart={"backoff": {"first": 0.1}},
        **{**SOON, **fields},
    )
    done = job.run()
    assert done.code == 0, done.text
    [incident] = job.incidents()
    assert incident["class"] == "hang"
    return job, incident


def examined(job: Job) -> dict[str, Any]:
    """The only event about a close look."""
    [event] = [e for e in job.events() if e["kind"] == "examined"]
    data: dict[str, Any] = event["data"]
    return data


def test_a_rank_asleep_in_python_is_named(tmp_path: Path) -> None:
    """The cause says the rank, the line it sleeps at, and that its peer waits in a barrier."""
    job, incident = hang(tmp_path, "hang@7")
    assert incident["rank"] == 1
    assert "in the job's own Python code" in incident["cause"]
    assert "in fail_if_told: time.sleep(3600)" in incident["cause"]
    assert "while rank 0 waits in a collective" in incident["cause"]
    assert "not determined" not in incident["cause"]
    lines = [line for line in incident["evidence"] if line.startswith("rank ")]
    assert [line.split(":")[0] for line in lines] == ["rank 1", "rank 0"]
    assert "hrtimer_nanosleep" in lines[0] or "state S" in lines[0]
    files = [Path(file) for file in examined(job)["files"]]
    assert [file.name for file in files] == [
        "rank-0.json",
        "rank-0.stacks",
        "rank-1.json",
        "rank-1.stacks",
    ]
    seen = json.loads(files[2].read_text())
    assert seen["progress"]["step"] == 7 and seen["threads"][0]["tid"] == seen["pid"]
    assert "fail_if_told" in files[3].read_text()


def test_a_rank_that_waits_for_data_is_named(tmp_path: Path) -> None:
    """What it waits in is the data pipeline, though its peers look just as idle."""
    _, incident = hang(tmp_path, "data-hang@7")
    assert incident["rank"] == 1
    assert "in the data pipeline" in incident["cause"]
    assert "in next_batch: return batches.get()" in incident["cause"]


def test_a_stopped_rank_is_named(tmp_path: Path) -> None:
    """It can write no stacks, and is sent nothing that would end it once it goes on."""
    job, incident = hang(tmp_path, "stop@7")
    assert incident["rank"] == 1
    assert "stopped" in incident["cause"]
    assert "no stacks: its process is stopped" in examined(job)["summary"]["1"]


def test_where_all_ranks_look_alike_nobody_is_named(tmp_path: Path) -> None:
    """The incident says so and shows where every rank was."""
    _, incident = hang(tmp_path, "all-hang@7")
    assert incident["rank"] is None
    assert "which rank is the cause: not determined" in incident["cause"]
    assert "every rank is in a collective" in incident["cause"]
    assert sum("in barrier" in line for line in incident["evidence"]) == 2


def test_a_program_that_knows_nothing_of_us_is_not_harmed_by_the_look(tmp_path: Path) -> None:
    """Without the handler it gets no signal: the kernel's word is all there is."""
    job = worker_job(
        tmp_path,
        command=["sh", "-c", 'test "$MUSTER_ATTEMPT" = 2 || sleep 600'],
        **SOON,
        restart={"backoff": {"first": 0.1}},
    )
    assert job.run().code == 0
    summary = examined(job)["summary"]
    assert all("no stacks: it has no handler" in text for text in summary.values())


def test_a_module_without_the_contract_shows_its_stacks(tmp_path: Path) -> None:
    """A `module:` is run by our own entry, which answers for it."""
    (tmp_path / "plain.py").write_text(
        "import os, time\n\ndef rest():\n    time.sleep(600)\n\n"
        "if os.environ['MUSTER_ATTEMPT'] == '1':\n    rest()\n"
    )
    job = worker_job(tmp_path, module="plain", **SOON, restart={"backoff": {"first": 0.1}})
    document = yaml.safe_load(job.file.read_text())
    del document["command"]
    job.file.write_text(yaml.safe_dump(document))
    assert job.run().code == 0, job.events()
    assert all("in rest: time.sleep(600)" in t for t in examined(job)["summary"].values())


def test_secrets_are_not_kept_with_the_evidence(tmp_path: Path) -> None:
    """Neither in the stacks, nor in a line about them, nor in what the kernel says."""
    secret = tmp_path / "token"
    secret.write_text("hush-hush-4711")
    secret.chmod(0o600)
    script = tmp_path / "hush-hush-4711.py"
    script.write_text(
        "import os, time\nfrom orchestrator.rank import Rank\nrank = Rank.from_env()\n"
        "rank.phase('load')\n"
        "if rank.attempt == 1:\n    time.sleep(600)  # hush-hush-4711\nrank.done()\n"
    )
    job = worker_job(
        tmp_path,
        command=["sh", "-c", f'exec {sys.executable} "$TOKEN.py"'],
        secrets={"TOKEN": str(secret)},
        health={"phase_timeouts": {"load": "2s"}},
        restart={"backoff": {"first": 0.1}},
    )
    done = job.run()
    assert done.code == 0, done.text
    kept = [*(job.run_dir / "attempts/001/evidence").iterdir(), job.run_dir / "events.jsonl"]
    assert len(kept) == 5
    assert all("hush-hush" not in file.read_text() for file in kept)
    assert "[secret TOKEN].py" in (job.run_dir / "attempts/001/evidence/rank-1.stacks").read_text()


@pytest.mark.parametrize("phase", ["compile", "checkpoint", "evaluate"])
def test_a_long_phase_is_no_hang(tmp_path: Path, phase: str) -> None:
    """Longer than the limit of a step: neither who is in it nor who waits for it is suspected."""
    job = worker_job(tmp_path, args={"steps": 6, "long": f"{phase}:5"}, **SOON)
    assert job.run().code == 0
    assert [e for e in job.events() if e["kind"] in ("failing", "examined")] == []
