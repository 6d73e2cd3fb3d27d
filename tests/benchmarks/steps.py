"""What `scripts/allreduce.py` prints, read back from a log that is still being written."""

from __future__ import annotations

import re
from pathlib import Path

Steps = list[tuple[int, float]]
"""Step and time (CLOCK_MONOTONIC seconds), in the order of the log."""

_STEP = re.compile(r"^STEP (\d+) (\d+\.\d+)\n", re.MULTILINE)
_PID = re.compile(r"^PID (\d+)\n", re.MULTILINE)


def steps_in(log: Path) -> Steps:
    """Every step in a log; none if it is not there yet."""
    return [(int(step), float(at)) for step, at in _STEP.findall(_text(log))]


def pid_in(log: Path) -> int | None:
    """The process that writes the log, if it has said so yet."""
    match = _PID.search(_text(log))
    return int(match[1]) if match else None


def first_step(steps: Steps, *, after: float) -> float | None:
    """When step 1 was made after `after`: a later one may be left from the time before it."""
    return next((at for step, at in steps if step == 1 and at > after), None)


def _text(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
