"""What the tests of the store share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from orchestrator.jobfile import loads
from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store.values import JobRecord, Submission, Told, happened

ROOT = Path(__file__).resolve().parent.parent
TEXT = """
version: 1
name: small
module: train
workdir: /
resources: {device: cpu, ranks: 2}
"""


def submission(key: str | None = None, *overrides: str, user: str = "ann") -> Submission:
    """A job of two CPU ranks, changed by `PATH=VALUE` overrides."""
    spec = loads(TEXT, overrides)
    return Submission.of(spec, TEXT.encode(), runs=Path("/runs"), user=user, key=key)


class Head:
    """A store with a controller's epoch, in few words."""

    def __init__(self, path: Path) -> None:
        self.store = Store.open(path)
        self.epoch = self.store.begin_epoch()

    def submit(self, key: str | None = None, *overrides: str, user: str = "ann") -> JobRecord:
        return self.store.submit(submission(key, *overrides, user=user), epoch=self.epoch)

    def move(self, job: str, state: JobState, reason: str = "", **fields: Any) -> Told:
        """Move a job from wherever it is; `records` go with it, other fields into the event."""
        records = fields.pop("records", ())
        seen = fields.pop("seen", None) or self.store.job(job).state
        event = happened("moved", reason, state=state, **fields)
        return self.store.transition(job, event, seen=seen, epoch=self.epoch, records=records)

    def walk(self, job: str, *states: JobState) -> None:
        for state in states:
            self.move(job, state)

    def queue(self) -> list[str]:
        return [waiting.job for waiting in self.store.waiting()]

    def __enter__(self) -> Head:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()


def start(script: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A Python process in this tree with a pipe to its output; `before` starts it."""
    return subprocess.Popen(
        [*before, sys.executable, str(ROOT / "tests/scripts" / script), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
