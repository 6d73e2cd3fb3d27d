"""Gather what a failed attempt left behind: exits, error files, the end of a log, OOM kills."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.health import RankView, Suspect
from orchestrator.journal import Event
from orchestrator.layout import AttemptDirectory
from orchestrator.policy import Evidence, describe_exit
from orchestrator.secrets import Redactor

NO_SECRETS = Redactor({})
_LOG_TAIL = 64 << 10
_SHOWN_LINES = 6
_SHOWN_RANKS = 16
_SURELY_AT_WORK = 600.0


def collect(
    suspect: Suspect,
    view: RankView | None,
    files: AttemptDirectory,
    redactor: Redactor = NO_SECRETS,
    *,
    stepped_before: bool,
    lived: float,
    oom_killed: bool,
    device_fault: str = "",
    asked_to_stop: bool = False,
) -> Evidence:
    """The evidence about the first failure, read when the gang is down.

    `stepped_before`: an earlier attempt finished a step; `lived`: seconds of this attempt.
    """
    error: Mapping[str, Any] = (view.error if view is not None else None) or {}
    ended = view.exit if view is not None else None
    own_exit = ended is not None and not ended.asked
    signal = ended.signal if ended is not None and own_exit else None
    return Evidence(
        sign=suspect.sign,
        exit_code=ended.code if ended is not None and own_exit else error.get("code"),
        signal=signal,
        error_type=error.get("type"),
        error_message=str(error.get("message", "")),
        error_errno=error.get("errno"),
        bad_checkpoint=error.get("checkpoint"),
        log=_tail_without(redactor, files.log(suspect.rank)),
        oom_killed=oom_killed and signal == 9,
        before_first_step=not stepped_before and not _has_stepped(view, lived),
        start_errno=view.start_errno if view is not None else None,
        device_fault=device_fault,
        terminated_by_us=asked_to_stop,
    )


def _has_stepped(view: RankView | None, lived: float) -> bool:
    """Whether the rank was at work; of one without heartbeats only its age can tell."""
    if view is None or view.beat is None:
        return lived > _SURELY_AT_WORK
    return view.beat.step >= 0


def describe(suspect: Suspect, evidence: Evidence, view: RankView | None) -> list[str]:
    """The evidence as lines for a person: the sign, the exit, the error, the end of the log."""
    lines = [suspect.cause, *filter(None, [evidence.device_fault])]
    if evidence.exit_code is not None or evidence.signal is not None:
        lines.append(describe_exit(evidence.exit_code, evidence.signal))
    if view is not None and view.error is not None:
        lines += str(view.error["traceback"]).strip().splitlines()[-_SHOWN_LINES:]
    else:
        lines += evidence.log.strip().splitlines()[-_SHOWN_LINES:]
    return list(dict.fromkeys(lines))


def of_examination(events: Iterable[Event], attempt: int, rank: int | None) -> list[str]:
    """What was seen of the ranks of a hung attempt before it was stopped: a line each.

    The one that is blamed comes first; of a large gang only some are shown.
    """
    last = [e.data for e in events if e.kind == "examined" and e.attempt == attempt][-1:]
    lines = {int(one): text for data in last for one, text in data["summary"].items()}
    order = sorted(lines, key=lambda one: (one != rank, one))
    shown = [f"rank {one}: {lines[one]}" for one in order[:_SHOWN_RANKS]]
    left = len(order) - len(shown)
    return [*shown, *([f"{left} more ranks: see evidence/ of the attempt"] if left else [])]


def _tail_without(redactor: Redactor, path: Path) -> str:
    """The end of a log without secrets: more is read, and a secret cut in two is left out."""
    size = _LOG_TAIL + 4 * redactor.longest  # UTF-8 has at most four bytes a character
    text = tail(path, size)
    cut = len(text.encode()) >= size
    return redactor.text(text)[redactor.longest if cut else 0 :]


def tail(path: Path, size: int) -> str:
    """The last `size` bytes of a log as text; empty if there is none."""
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, length - size))
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def oom_kills() -> int | None:
    """OOM kills counted by this process's memory cgroup so far (v2, v1); None if unreadable.

    Source: kernel documentation, cgroup-v2 `memory.events`, cgroup-v1 `memory.oom_control`.
    """
    for path in _oom_files():
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _oom_files() -> list[Path]:
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    files = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if controllers == "":
            files.append(root / below / "memory.events")
        elif "memory" in controllers.split(","):
            # A container often sees its own group mounted at the controller's root.
            files.append(root / "memory" / below / "memory.oom_control")
            files.append(root / "memory" / "memory.oom_control")
    return files
