"""Controllers for tests: real processes with the real API, whose jobs move when a test says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from orchestrator.client import Client
from orchestrator.layout import Home, RunDirectory, read_json
from tests.runs import SCRIPTS, poll

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0
"""Seconds for what takes a few, on a machine with much else to do."""
JOB = """version: 1
name: small
module: train
workdir: /
resources: {device: cpu, ranks: 2}
"""


class ScriptedHead:
    """A controller in a home of its own; may be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """What leads a client here."""
        return {"MUSTER_HOME": str(self.home.root)}

    @property
    def lives(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def start(self) -> ScriptedHead:
        """Start it; returns when it answers."""
        assert self._process is None
        self.home.root.mkdir(parents=True, exist_ok=True)
        with open(self.home.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPTS / "scripted_head.py")],
                env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        pid = self._process.pid
        poll(
            lambda: (read_json(self.home.address) or {}).get("pid") == pid, PATIENCE, "a controller"
        )
        return self

    def kill(self) -> None:
        """SIGKILL, and nothing after it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None

    def client(
        self, patience: float = 30.0, told: Callable[[str], None] = lambda _: None
    ) -> Client:
        """A client of it."""
        return Client.from_environment(self.environment, patience=patience, told=told)

    def submit(self, *overrides: str) -> str:
        """The id of a new job."""
        with self.client() as client:
            return client.submit(JOB, overrides=overrides)["job"]

    def move(
        self, job: str, *states: str, attempt: int = 1, reason: str = "so says the test"
    ) -> None:
        """Have the job go through these states; returns when it is in the last."""
        assert self._process is not None and self._process.stdin is not None
        for state in states:
            order = {"job": job, "state": state, "attempt": attempt, "reason": reason}
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        with self.client() as client:
            poll(lambda: client.job(job)["state"] == states[-1], PATIENCE, f"{job} {states[-1]}")

    def log(self, job: str, text: str, attempt: int = 1, rank: int = 0) -> None:
        """Have a rank write to its log."""
        files = RunDirectory(self.home.runs / job).attempt(attempt)
        files.logs.mkdir(parents=True, exist_ok=True)
        with open(files.log(rank), "a") as file:
            file.write(text)
