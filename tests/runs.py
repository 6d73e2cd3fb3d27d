"""Real runs for tests: job files, the command line as a subprocess, and what is left after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SCRIPTS = Path(__file__).parent / "scripts"
MUSTER = [sys.executable, "-m", "orchestrator"]
DEADLINE = 300.0


def poll(condition: Callable[[], Any], timeout: float = DEADLINE, what: str = "") -> Any:
    """The first true value of `condition` before the deadline; fails otherwise."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(0.02)


def muster(*arguments: str | Path, timeout: float = DEADLINE, **options: Any) -> Completed:
    """Run a command to its end."""
    done = subprocess.run(
        [*MUSTER, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    return Completed(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Job:
    """A job file and its run directory below a test's own directory."""

    file: Path
    run_dir: Path

    def run(self, *arguments: str, **options: Any) -> Completed:
        """`muster run` to its end."""
        done = muster("run", self.file, "--run-dir", self.run_dir, *arguments, **options)
        assert "Traceback (most recent call last)" not in done.err, done.err
        return done

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`muster run` in the background; its output goes to a file beside the run."""
        log = open(self.run_dir.with_suffix(".out"), "wb")
        with log:
            return subprocess.Popen(
                [*MUSTER, "run", str(self.file), "--run-dir", str(self.run_dir), *arguments],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def output(self) -> str:
        """What a background run has printed."""
        return self.run_dir.with_suffix(".out").read_text()

    def status(self) -> Any:
        return muster("status", self.run_dir, "--json").json()

    def incidents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = muster("incidents", self.run_dir, "--json").json()[
            "incidents"
        ]
        return found

    def events(self) -> list[dict[str, Any]]:
        """The journal as it stands."""
        path = self.run_dir / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events()]

    def await_step(self, step: int) -> None:
        """Wait until every rank has finished a step."""

        def there() -> bool:
            if not (self.run_dir / "spec.json").exists():
                return False
            ranks = self.status()["ranks"]
            return bool(ranks) and all((rank["step"] or 0) >= step for rank in ranks)

        poll(there, what=f"step {step}")

    def live(self) -> dict[str, Any]:
        """Who drives the run, and its spool."""
        document: dict[str, Any] = json.loads((self.run_dir / "live.json").read_text())
        return document


def worker_job(directory: Path, ranks: int = 2, **fields: Any) -> Job:
    """A job of `tests/scripts/worker.py`; `args` and further sections as keywords."""
    document = {
        "version": 1,
        "name": "worker",
        "command": [sys.executable, str(SCRIPTS / "worker.py")],
        "workdir": str(directory),
        "resources": {"device": "cpu", "ranks": ranks},
        "launch": {"mode": "none"},
        **fields,
    }
    file = directory / "job.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return Job(file, directory / "run")


def leftovers(mark: str, spool: dict[str, str]) -> list[str]:
    """Processes of a run (by its mark, or by Ray's directory) and files of its spool."""
    found = [path for path in spool.values() if os.path.exists(path)]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        marked = f"MUSTER_RUN_ID={mark}".encode() in environment.split(b"\0")
        if marked or spool["ray"].encode() in command:
            found.append(f"{entry.name}: {command[:100]!r}")
    return found


def assert_nothing_left(live: dict[str, Any], timeout: float = 15.0) -> None:
    """Within 15 s after its end nothing of a run may be left."""
    left: list[Any] = []

    def nothing() -> bool:
        left[:] = leftovers(live["run_id"], live["spool"])
        return not left

    try:
        poll(nothing, timeout, "nothing left of the run")
    except AssertionError as late:
        raise AssertionError(f"{late}: {left}") from None


def end(process: subprocess.Popen[bytes]) -> None:
    """End a background run that a failed test has left behind."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def training_job(
    directory: Path, name: str, keep: int, *, every: int = 4, **arguments: Any
) -> Path:
    """A job file: two ranks of the real trainer, with the real network made very small.

    The data are expected in `directory`/data; `arguments` come on top of the common ones.
    """
    document = {
        "version": 1,
        "name": name,
        "module": "model.train",
        "workdir": str(directory),
        "args": {
            "data_dir": str(directory / "data"),
            "per_batch_size": 2,
            "testing_shape": 64,
            "res2net_block": [1, 1, 1, 1],
            "res2net_in_channels": [16, 16, 32, 64],
            "res2net_out_channels": [16, 32, 64, 128],
            "backbone_shape": [8, 16, 32, 64, 128],
            "freeze_backbone": False,
            "backbone_bn": "batch",
            "lr": 0.001,
            "evaluate_at_end": True,
            **arguments,
        },
        "resources": {"device": "cpu", "ranks": 2},
        "launch": {"preload": ["mindspore", "mindspore.communication", "cv2", "pycocotools"]},
        "checkpoint": {"every_steps": every, "keep": keep},
    }
    file = directory / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    return file
