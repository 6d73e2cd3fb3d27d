"""The rank's side of the contract, as a script uses it: alone, and under muster."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.heartbeat import read_heartbeat
from orchestrator.layout import AttemptDirectory, RunDirectory, read_json, spooled_error
from orchestrator.rank import CheckpointUnusable, Rank, exit_code_of


@pytest.fixture
def files(tmp_path: Path) -> AttemptDirectory:
    """The directory of attempt 2."""
    attempt = RunDirectory(tmp_path).attempt(2)
    attempt.create()
    return attempt


def contract(tmp_path: Path, rank: int = 3, **more: str) -> dict[str, str]:
    """What muster sets for a rank of attempt 2."""
    return {
        "RANK_ID": str(rank),
        "RANK_SIZE": "8",
        "LOCAL_RANK": "1",
        "MUSTER_JOB": "small",
        "MUSTER_ATTEMPT": "2",
        "MUSTER_RUN_DIR": str(tmp_path),
        "MUSTER_RESUME_FROM": "",
        "MUSTER_BACKEND": "cpu",
        "MUSTER_HEARTBEAT": str(tmp_path / "beat"),
        "MUSTER_ERROR_FILE": str(RunDirectory(tmp_path).attempt(2).error(rank)),
        "MUSTER_CHECKPOINT": json.dumps({"directory": str(tmp_path), "every_steps": 5}),
        **more,
    }


def run_script(
    tmp_path: Path, code: str, *, entry: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, plainly or through the entry that `module:` jobs have."""
    (tmp_path / "script.py").write_text(code)
    argv = ["-m", "orchestrator.entry", "script"] if entry else ["script.py"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    return subprocess.run(
        [sys.executable, *argv],
        cwd=tmp_path,
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_outside_muster_every_call_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer runs alone: rank 0 of 1, no file, no hook, no complaint."""
    for name in contract(tmp_path):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    hook = sys.excepthook
    rank = Rank.from_env()
    assert (rank.active, rank.rank, rank.size, rank.resume_from) == (False, 0, 1, None)
    rank.phase("train")
    rank.phase("a phase that there is not")
    rank.step(1, loss=0.5, images=8, total=10)
    rank.digest(1, 7)
    rank.checkpoint("/nowhere", 1)
    rank.resumed(step=1, digest="d")
    rank.report("evaluation", "text")
    rank.error(ValueError, ValueError("x"), None)
    rank.done()
    assert sys.excepthook is hook
    assert list(tmp_path.iterdir()) == []


def test_the_contract_is_read_from_the_environment(tmp_path: Path) -> None:
    """Who it is, what it resumes from, how often it saves and where."""
    rank = Rank(contract(tmp_path, MUSTER_RESUME_FROM="/run/checkpoints/step-00000040"))
    assert (rank.active, rank.job, rank.attempt) == (True, "small", 2)
    assert (rank.rank, rank.size, rank.local_rank, rank.backend) == (3, 8, 1, "cpu")
    assert rank.resume_from == Path("/run/checkpoints/step-00000040")
    assert (rank.checkpoint_dir, rank.checkpoint_every) == (tmp_path, 5)
    assert Rank(contract(tmp_path)).resume_from is None


STEPS = """
from orchestrator.rank import Rank
rank = Rank.from_env()
rank.phase("train")
rank.step(41, loss=0.5, images=4, total=50, data_wait=0.25)
rank.digest(41, 7)
rank.checkpoint(".", 41)
rank.done()
"""


def test_a_script_reports_its_steps(tmp_path: Path, files: AttemptDirectory) -> None:
    """Steps, checkpoint and success of a real process are in its heartbeat; it left no error."""
    result = run_script(tmp_path, STEPS, **contract(tmp_path))
    assert result.returncode == 0, result.stderr
    beat = read_heartbeat(tmp_path / "beat")
    assert beat is not None
    assert (beat.phase, beat.step, beat.steps_total, beat.images) == ("train", 41, 50, 4)
    assert (beat.checkpoint_step, beat.done, beat.failed) == (41, True, False)
    assert (beat.data_wait, beat.digest, beat.digest_step) == (0.25, 7, 41)
    assert not files.error(3).exists()


def test_a_checkpoint_must_exist(tmp_path: Path, files: AttemptDirectory) -> None:
    """Reporting a checkpoint that is not there is the script's error."""
    code = STEPS.replace('checkpoint(".", 41)', 'checkpoint("none", 41)')
    result = run_script(tmp_path, code, **contract(tmp_path))
    assert result.returncode == 1
    assert "none is not a directory" in result.stderr


ENDINGS = [
    ("raise RuntimeError('first line\\nsecond')", 1, "RuntimeError", "first line\nsecond", None),
    ("raise OSError(28, 'No space left on device')", 1, "OSError", None, 28),
    ("raise FloatingPointError('loss is nan')", 1, "FloatingPointError", "loss is nan", None),
    ("open('/none/x')", 1, "FileNotFoundError", None, 2),
]


@pytest.mark.parametrize("entry", [False, True], ids=["plain", "entry"])
@pytest.mark.parametrize(("code", "exit_code", "kind", "message", "number"), ENDINGS)
def test_an_exception_leaves_its_record(
    tmp_path: Path,
    files: AttemptDirectory,
    entry: bool,
    code: str,
    exit_code: int,
    kind: str,
    message: str | None,
    number: int | None,
) -> None:
    """Type, message, traceback and errno are in the error file, and the heartbeat says failed."""
    script = f"from orchestrator.rank import Rank\nrank = Rank.from_env()\n{code}\n"
    result = run_script(tmp_path, script, entry=entry, **contract(tmp_path))
    assert result.returncode == exit_code
    assert kind in result.stderr
    record = error_of(files)
    assert (record["rank"], record["type"], record["code"]) == (3, kind, exit_code)
    assert message is None or record["message"] == message
    assert record["errno"] == number
    assert "script.py" in record["traceback"]
    beat = read_heartbeat(tmp_path / "beat")
    assert beat is not None and beat.failed


def test_the_entry_reports_for_scripts_that_do_not(tmp_path: Path, files: AttemptDirectory) -> None:
    """A module that never uses the contract still leaves the exception that ended it."""
    result = run_script(tmp_path, "import missing_package", entry=True, **contract(tmp_path))
    assert result.returncode == 1
    assert error_of(files)["type"] == "ModuleNotFoundError"


@pytest.mark.parametrize(
    ("code", "exit_code", "recorded"),
    [
        ("raise SystemExit", 0, None),
        ("raise SystemExit(0)", 0, None),
        ("import sys; sys.exit(75)", 75, 75),
        ("import sys; sys.exit('bad argument')", 1, 1),
        ("class E(Exception): exit_code = 66\nraise E('no input')", 66, 66),
    ],
)
def test_exit_codes_of_modules(
    tmp_path: Path, files: AttemptDirectory, code: str, exit_code: int, recorded: int | None
) -> None:
    """SystemExit and an exception's own exit_code decide the code; 0 leaves no record."""
    result = run_script(tmp_path, code, entry=True, **contract(tmp_path))
    assert result.returncode == exit_code
    record = read_json(files.error(3))
    assert record is None if recorded is None else record["code"] == recorded


def test_an_unusable_checkpoint_is_named(tmp_path: Path, files: AttemptDirectory) -> None:
    """`unusable` leaves the directory and the reason for whoever chooses the next one."""
    code = (
        "from orchestrator.rank import Rank\n"
        "rank = Rank.from_env()\n"
        "rank.unusable(rank.resume_from, 'of another network')\n"
    )
    given = contract(tmp_path, MUSTER_RESUME_FROM=str(tmp_path / "step-00000040"))
    assert run_script(tmp_path, code, **given).returncode == 1
    record = error_of(files)
    assert record["checkpoint"] == str(tmp_path / "step-00000040")
    assert "of another network" in record["message"]


def test_the_resume_proof_is_a_file_of_its_own(tmp_path: Path, files: AttemptDirectory) -> None:
    """What was loaded stands beside the error file and is whole JSON."""
    Rank(contract(tmp_path)).resumed(
        step=40, digest="abc", learning_rate=0.5, next_samples=range(2)
    )
    assert read_json(files.resumed(3)) == {
        "rank": 3,
        "step": 40,
        "digest": "abc",
        "learning_rate": 0.5,
        "next_samples": [0, 1],
    }
    assert [path.name for path in files.errors.iterdir()] == ["rank-3.resumed.json"]


def test_a_full_disk_hides_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where the run directory takes no record it is left beside the heartbeat, else it is said."""
    heartbeat = tmp_path / "shm" / "002-3.beat"
    given = contract(tmp_path, MUSTER_HEARTBEAT=str(heartbeat))
    Rank(given).error(ValueError, ValueError("the first error"), None)
    said = capfd.readouterr()
    assert "could not write" in said.out + said.err
    heartbeat.parent.mkdir()
    Rank(given).error(ValueError, ValueError("the first error"), None)
    record = read_json(spooled_error(heartbeat))
    assert record is not None and record["message"] == "the first error"


TWICE = """
from orchestrator.rank import Rank
def train():
    rank = Rank.from_env()
    rank.step(4, loss=0.5, total=9)
def evaluate():
    rank = Rank.from_env()
    rank.phase("evaluate")
train()
evaluate()
"""


def test_a_script_may_ask_for_its_rank_twice(tmp_path: Path, files: AttemptDirectory) -> None:
    """Two parts of a program have one voice: the second does not wipe out the first's steps."""
    result = run_script(tmp_path, TWICE, **contract(tmp_path))
    assert result.returncode == 0, result.stderr
    beat = read_heartbeat(tmp_path / "beat")
    assert beat is not None
    assert (beat.phase, beat.step, beat.first_step, beat.steps_total) == ("evaluate", 4, 4, 9)


@pytest.mark.parametrize("name", ["evaluation", "per-class_2", "x"])
def test_reports_are_kept_by_name(tmp_path: Path, files: AttemptDirectory, name: str) -> None:
    """A report lies in the attempt's directory under its name."""
    Rank(contract(tmp_path)).report(name, "mAP 0.5\n")
    assert (files.reports / f"{name}.txt").read_text() == "mAP 0.5\n"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.txt", " ", "-", "\0"])
def test_report_names_are_no_paths(tmp_path: Path, files: AttemptDirectory, name: str) -> None:
    """Anything that could leave the directory is refused."""
    with pytest.raises(ValueError, match="report name"):
        Rank(contract(tmp_path)).report(name, "text")
    assert list(files.reports.iterdir()) == []


def test_exit_codes_of_exceptions() -> None:
    """As Python would leave, with an exception's own code where it has one."""
    own = ValueError("x")
    own.exit_code = 64  # type: ignore[attr-defined]
    codes = [
        (SystemExit(), 0),
        (SystemExit(None), 0),
        (SystemExit(78), 78),
        (SystemExit("text"), 1),
        (KeyboardInterrupt(), 1),
        (CheckpointUnusable("d", "r"), 1),
        (own, 64),
    ]
    assert [exit_code_of(error) for error, _ in codes] == [code for _, code in codes]


def test_a_loss_need_not_be_known(tmp_path: Path, files: AttemptDirectory) -> None:
    """A step without a loss is a step."""
    code = "from orchestrator.rank import Rank\nrank = Rank.from_env()\nrank.step(1)\nrank.done()"
    assert run_script(tmp_path, code, **contract(tmp_path)).returncode == 0
    beat = read_heartbeat(tmp_path / "beat")
    assert beat is not None and beat.step == 1 and math.isnan(beat.loss)


def error_of(files: AttemptDirectory) -> dict[str, Any]:
    """The error record of rank 3."""
    record = read_json(files.error(3))
    assert isinstance(record, dict)
    return record
