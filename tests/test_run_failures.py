"""Failures of real runs: each gets its class, its message, its exit code, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import MUSTER, Job, muster, poll, worker_job

pytestmark = pytest.mark.slow


def run_failing(tmp_path: Path, how: str, **fields: object) -> tuple[Job, int, str]:
    """A two-rank run in which rank 1 fails as told; with its exit code and output."""
    args = {"steps": 20, "fail": how, **fields.pop("args", {})}  # type: ignore[dict-item]
    checkpoint = {"checkpoint": {"every_steps": 5}}
    job = worker_job(tmp_path, args=args, **{**checkpoint, **fields})
    done = job.run()
    return job, done.code, done.text


def test_a_script_that_raises_before_its_first_step_is_not_retried(tmp_path: Path) -> None:
    """It is the user's mistake: one attempt, the exception shown, exit code 1."""
    job, code, text = run_failing(tmp_path, "raise@0")
    assert code == 1
    assert "ValueError: told to fail at step 0" in text
    [incident] = job.incidents()
    assert (incident["class"], incident["rank"]) == ("user", 1)
    assert job.kinds().count("attempt") == 1
    assert any("told to fail at step 0" in line for line in incident["evidence"])


def test_a_script_that_raises_after_its_first_step_is_resumed(tmp_path: Path) -> None:
    """From its newest checkpoint, with the steps since then trained again."""
    job, code, text = run_failing(tmp_path, "raise@13")
    assert code == 0, text
    [incident] = job.incidents()
    assert (incident["class"], incident["rank"]) == ("process", 1)
    assert "counted to 20" in text
    resumed = next(e for e in job.events() if e["kind"] == "attempt" and e["attempt"] == 2)
    assert resumed["data"]["resumed_step"] == 10
    assert incident["steps_lost"] == 3
    assert "resumed" in job.kinds()
    first = (job.run_dir / "attempts/001/logs/rank-1.log").read_text()
    assert "told to fail at step 13" in first


@pytest.mark.parametrize(
    ("how", "failure", "code", "attempts"),
    [
        ("exit-64@3", "user", 1, 1),
        ("exit-75@3", "process", 0, 2),
        ("exit-1@3", "process", 0, 2),
        ("leave@3", "process", 0, 2),
    ],
)
def test_exit_codes_mean_what_the_contract_says(
    tmp_path: Path, how: str, failure: str, code: int, attempts: int
) -> None:
    """64 ends the run, 75 and 1 are retried, 0 while the peers train is no success."""
    job, got, text = run_failing(tmp_path, how)
    assert got == code, text
    assert [i["class"] for i in job.incidents()] == [failure]
    assert job.kinds().count("attempt") == attempts


def test_a_failure_that_gains_no_step_ends_the_run(tmp_path: Path) -> None:
    """The same step again and again stops by `no_progress`, and the reason names the knob."""
    job, code, text = run_failing(
        tmp_path,
        "exit-75@7",
        args={"always": True},
        restart={"no_progress": 2, "backoff": {"first": 0.1}, "budgets": {"process": 9}},
    )
    assert code == 1
    assert "restart.no_progress" in text
    assert job.kinds().count("attempt") == 3
    assert job.status()["state"] == "FAILED"


def test_what_raises_at_the_same_step_twice_is_deterministic(tmp_path: Path) -> None:
    """The second time ends the run, with the signature and the command that resumes it."""
    job, code, text = run_failing(
        tmp_path, "raise@7", args={"always": True}, restart={"backoff": {"first": 0.1}}
    )
    assert code == 1
    assert "it is deterministic" in text and f"muster resume {job.run_dir}" in text
    first, second = job.incidents()
    assert first["signature"] == second["signature"]
    assert second["signature"].endswith("ValueError: told to fail at step <n>")
    assert (first["step"], second["step"], second["policy"]) == (7, 7, "deterministic")
    assert job.kinds().count("attempt") == 2


def test_a_fall_back_is_taken_once(tmp_path: Path) -> None:
    """After the second time the ranks get the arguments of `restart.fallback`, and go on."""
    job, code, text = run_failing(
        tmp_path,
        "raise@7",
        args={"always": True},
        restart={"backoff": {"first": 0.1}, "fallback": {"args": {"fail": "raise@-1"}}},
    )
    assert code == 0, text
    told = [e["data"]["fallback"] for e in job.events() if e["kind"] == "attempt"]
    assert told == [None, None, {"fail": "raise@-1"}]
    assert "counted to 20" in text


def test_a_hung_rank_is_found_by_its_phase(tmp_path: Path) -> None:
    """A rank that stays in a phase for too long is stopped as a hang and the run goes on."""
    job, code, text = run_failing(tmp_path, "hang@0", health={"phase_timeouts": {"load": "2s"}})
    assert code == 0, text
    assert [(i["class"], i["rank"]) for i in job.incidents()] == [("hang", 1)]


def test_a_truncated_newest_checkpoint_is_quarantined(tmp_path: Path) -> None:
    """The run falls back to the one before it, says so, and keeps the bad one aside."""
    job = worker_job(tmp_path, args={"steps": 40, "pause": 0.1}, checkpoint={"every_steps": 10})
    # Far enough from the next checkpoint that a slow machine is still in time.
    done = job.run("--drill", "truncate-checkpoint@step:22", "--drill", "kill-rank:0@step:23")
    assert done.code == 0, done.text
    assert "the manifest says 1000" in done.text
    attempt = [e for e in job.events() if e["kind"] == "attempt"][1]
    assert attempt["data"]["resumed_step"] == 10
    [aside] = (job.run_dir / "quarantine").iterdir()
    assert "500 bytes" in json.loads((aside / "REASON.json").read_text())["reason"]
    verified = muster("checkpoints", job.run_dir, "verify", "--json")
    assert verified.code == 0
    assert verified.json()["checkpoints"][0]["step"] == 40


def test_without_a_usable_checkpoint_nothing_starts_from_scratch(tmp_path: Path) -> None:
    """When every checkpoint is broken the run ends and says where they are."""
    job = worker_job(tmp_path, args={"steps": 60, "pause": 0.1}, checkpoint={"every_steps": 20})
    done = job.run("--drill", "corrupt-checkpoint@step:22", "--drill", "kill-rank:1@step:23")
    assert done.code == 1
    assert "will not start from scratch" in done.text
    assert job.kinds().count("attempt") == 1


def test_changed_code_is_not_taken_over_by_a_restart(tmp_path: Path) -> None:
    """The run ends, class user, and `resume` takes the new code on purpose."""
    script = tmp_path / "code" / "worker.py"
    script.parent.mkdir()
    shutil.copy(Path(__file__).parent / "scripts" / "worker.py", script)
    job = worker_job(
        tmp_path,
        command=[sys.executable, str(script)],
        args={"steps": 60, "pause": 0.05, "fail": "raise@45"},
        checkpoint={"every_steps": 10},
    )
    process = job.start()
    job.await_step(5)
    script.write_text(script.read_text() + "\n# another version\n")
    assert process.wait(60) == 1
    assert "sources changed since its last attempt" in job.output()
    assert [e["data"]["failure"] for e in job.events() if e["kind"] == "refused"] == ["user"]
    resumed = muster("resume", job.run_dir)
    assert resumed.code == 0, resumed.text
    assert "resuming from step 40" in resumed.text


def test_a_full_disk_during_a_checkpoint_loses_no_complete_one(tmp_path: Path) -> None:
    """Class storage; the checkpoints that were complete still verify."""
    job = worker_job(
        tmp_path,
        args={"steps": 30},
        checkpoint={"every_steps": 10, "keep": 9},
        env={"CHECKPOINT_BYTES": "600000"},
        restart={"budgets": {"storage": 1}, "backoff": {"first": 0.1}},
    )
    mount = tmp_path / "small"
    mount.mkdir()
    # A file system of its own, in a mount namespace of its own: nobody else sees it.
    script = 'mount -t tmpfs -o size=1500k none "$1" && shift && exec "$@"'
    run_dir = mount / "run"
    inner = ["sh", "-c", '"$@"; code=$?; cp -r "$0" "$0/../../kept"; exit $code', str(run_dir)]
    command = [*MUSTER, "run", str(job.file), "--run-dir", str(run_dir)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(mount), *inner, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "class storage" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    kept = muster("checkpoints", tmp_path / "kept", "verify", "--json")
    assert [c["verified"] for c in kept.json()["checkpoints"]] == [True, True]


def test_a_wrong_job_file_starts_nothing(tmp_path: Path) -> None:
    """Every mistake at once, exit code 2, and no run directory."""
    job = worker_job(tmp_path, args={"steps": 1}, resorces={}, restart={"no_progress": "x"})
    done = job.run()
    assert done.code == 2
    assert "resorces" in done.err
    assert "restart.no_progress" in done.err
    assert not job.run_dir.exists()


def test_what_is_not_built_is_refused_by_name(tmp_path: Path) -> None:
    """Nothing in a job file is silently ignored."""
    job = worker_job(tmp_path, args={"steps": 1}, notify=[{"url": "https://example.org"}])
    done = job.run()
    assert done.code == 2
    assert "notify" in done.err
    assert not job.run_dir.exists()


def test_a_program_that_does_not_exist_is_the_users_mistake(tmp_path: Path) -> None:
    """The message names the program and where it was looked for."""
    job = worker_job(tmp_path, command=["./no-such-program"])
    done = job.run()
    assert done.code == 1
    assert "no such program" in done.text
    assert [i["class"] for i in job.incidents()] == ["user"]


def test_a_script_that_knows_nothing_of_muster_is_supervised(tmp_path: Path) -> None:
    """Exit 0 of every rank is success; its output is kept."""
    job = worker_job(tmp_path, command=["sh", "-c", "echo hello from $RANK_ID of $RANK_SIZE"])
    assert job.run().code == 0
    logs = muster("logs", job.run_dir).out.splitlines()
    assert logs == ["rank-0: hello from 0 of 2", "rank-1: hello from 1 of 2"]


def test_a_job_rule_decides_before_the_table(tmp_path: Path) -> None:
    """The first rule of the job whose pattern is in the log gives the class."""
    job, code, _ = run_failing(
        tmp_path,
        "raise@7",
        restart={"rules": [{"log": "told to fail", "class": "user"}]},
    )
    assert code == 1
    [incident] = job.incidents()
    assert incident["class"] == "user"
    assert "told to fail" in incident["rule"]


def test_resume_continues_a_run_whose_controller_was_killed(tmp_path: Path) -> None:
    """After kill -9 the directory explains itself, and `resume` loses no complete checkpoint."""
    job = worker_job(tmp_path, args={"steps": 150, "pause": 0.05}, checkpoint={"every_steps": 10})
    process = job.start()
    job.await_step(15)
    refused = muster("resume", job.run_dir)
    assert refused.code == 2
    assert f"driven by process {process.pid}" in refused.err
    os.kill(process.pid, 9)
    process.wait()
    poll(lambda: "controller_lost" in job.kinds(), 15, "the supervisor's last word")
    status = job.status()
    assert status["state"] == "FAILED"
    assert "muster resume" in status["reason"]
    resumed = muster("resume", job.run_dir)
    assert resumed.code == 0, resumed.text
    assert "resuming from step" in resumed.text
    again = muster("resume", job.run_dir)
    assert again.code == 0
    assert "nothing to resume" in again.err


def test_a_directory_in_use_is_not_run_into(tmp_path: Path) -> None:
    """A second `run` into a run directory is refused and names `resume`."""
    job = worker_job(tmp_path, args={"steps": 1})
    assert job.run().code == 0
    second = job.run()
    assert second.code == 2
    assert f"muster resume {job.run_dir}" in second.err


def test_a_run_that_is_not_there_is_code_3(tmp_path: Path) -> None:
    """Reading commands say that there is no run."""
    for command in ("status", "logs", "events", "incidents", "checkpoints", "resume"):
        assert muster(command, tmp_path / "nothing").code == 3
