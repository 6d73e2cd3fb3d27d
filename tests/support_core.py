"""Values and small helpers that the tests of the orchestrator's core share."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from orchestrator.health import Exit, RankView
from orchestrator.heartbeat import PHASES, Heartbeat
from orchestrator.jobfile import loads
from orchestrator.spec import JobSpec

T = TypeVar("T")

JOB = """
version: 1
name: small
module: train
workdir: /
resources: {device: cpu, ranks: 2}
"""


def until(
    condition: Callable[[], T | None], what: str, timeout: float = 20.0, pause: float = 0.005
) -> T:
    """The first true value of `condition`; fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(pause)


def job(*overrides: str, text: str = JOB) -> JobSpec:
    """A validated job of two CPU ranks, changed by `PATH=VALUE` overrides."""
    return loads(text, overrides)


def beat(**fields: object) -> Heartbeat:
    """A heartbeat of a rank that has just been started, changed by `fields`.

    Its phase counts as entered at `phase_at`.
    """
    entered = [0.0, *[math.nan] * (len(PHASES) - 1)]
    if "phase" in fields:
        entered[PHASES.index(str(fields["phase"]))] = float(str(fields.get("phase_at", 0.0)))
    quiet = Heartbeat(
        sequence=1,
        phase="init",
        step=-1,
        steps_total=-1,
        first_step=-1,
        images=0,
        checkpoint_step=-1,
        beat_at=0.0,
        step_at=math.nan,
        step_seconds=math.nan,
        loss=math.nan,
        first_step_at=math.nan,
        phase_at=0.0,
        phase_entered=tuple(entered),
        done=False,
        failed=False,
    )
    return replace(quiet, **fields)  # type: ignore[arg-type]


def training(step: int, at: float, **fields: object) -> Heartbeat:
    """A heartbeat of a rank that finished `step` at `at` and trains on."""
    known = {"phase": "train", "first_step": 1, "beat_at": at, "first_step_at": 1.0}
    return beat(**{**known, "step": step, "step_at": at, "phase_at": 0.5, **fields})


def done(at: float) -> Heartbeat:
    """The last heartbeat of a rank that has finished its work."""
    return training(9, at, done=True)


def view(rank: int, **fields: object) -> RankView:
    """A rank that has a process."""
    known = {"pid": 1000 + rank, "start_time": 1, "started_at": 0.0}
    return RankView(rank, **{**known, **fields})  # type: ignore[arg-type]


def killed(at: float, number: int = signal.SIGKILL, *, asked: bool = False) -> Exit:
    """An end by a signal."""
    return Exit(None, int(number), at, asked)


def left(code: int, at: float, *, asked: bool = False) -> Exit:
    """An end with an exit code."""
    return Exit(code, None, at, asked)


def write_checkpoint(
    directory: Path, step: int, *, world_size: int = 2, files: Mapping[str, bytes] | None = None
) -> Path:
    """A whole checkpoint of `step`, as a trainer writes it."""
    path = directory / f"step-{step:08d}"
    path.mkdir(parents=True)
    content = {"model.ckpt": b"weights of step %d" % step, "rank-1.ckpt": b"statistics"}
    content = dict(content if files is None else files)
    for name, data in content.items():
        (path / name).write_bytes(data)
    manifest = {
        "format": 1,
        "step": step,
        "world_size": world_size,
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in content.items()
        },
    }
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    return path


def edit_manifest(checkpoint: Path, **fields: object) -> None:
    """Change fields of a checkpoint's manifest; a value of None removes the field."""
    manifest = json.loads((checkpoint / "MANIFEST.json").read_bytes())
    manifest.update(fields)
    kept = {name: value for name, value in manifest.items() if value is not None}
    (checkpoint / "MANIFEST.json").write_text(json.dumps(kept))


def python(code: str, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    """A Python process that runs `code`."""
    return subprocess.Popen([sys.executable, "-c", code, *arguments], **options)  # type: ignore[call-overload,no-any-return]


def gone(pid: int) -> bool:
    """Whether no process with this pid runs any more; a zombie does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    return text[text.rindex(b")") + 2 :].split()[0] == b"Z"


def kill(*pids: int) -> None:
    """SIGKILL to whatever of these still runs."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
