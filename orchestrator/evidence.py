"""Gather what a failed attempt left behind: exits, error files, the end of a log, who killed it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from orchestrator import oom
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

    `stepped_before`: an earlier attempt finished a step; `lived`: seconds of this attempt;
    `oom_killed`: the kernel counted a kill for memory in it.
    """
    error: Mapping[str, Any] = (view.error if view is not None else None) or {}
    ended = view.exit if view is not None else None
    own_exit = ended is not None and not ended.asked
    signal = ended.signal if ended is not None and own_exit else None
    log = _tail_without(redactor, files.log(suspect.rank))
    kernel = redactor.text(_kernel_word(view)) if signal == SIGKILL else ""
    return Evidence(
        sign=suspect.sign,
        exit_code=ended.code if ended is not None and own_exit else error.get("code"),
        signal=signal,
        error_type=error.get("type"),
        error_message=str(error.get("message", "")),
        error_errno=error.get("errno"),
        bad_checkpoint=error.get("checkpoint"),
        log=log,
        oom_killed=bool(kernel) or (oom_killed and signal == SIGKILL),
        before_first_step=not stepped_before and not _has_stepped(view, lived),
        start_errno=view.start_errno if view is not None else None,
        device_fault=device_fault,
        terminated_by_us=asked_to_stop,
        kernel_word=kernel,
        terminated_by=terminator(log) if signal == SIGTERM else "",
    )


OWN_TERMS: tuple[tuple[str, str], ...] = (
    (
        "[HcclWatchDog] Try to kill this process by SIGTERM",
        "MindSpore's HCCL watchdog, which saw an error of the communication",
    ),
    (
        "The subprocess of dataset may exit unexpected or be killed, main process will exit",
        "MindSpore's dataset watchdog, since a worker of the data pipeline had died",
    ),
    (
        "Kill this process with SIGTERM.",
        "MindSpore's cluster callback, since its distributed job had broken",
    ),
)
"""What MindSpore logs before it ends its own process by SIGTERM, and who that is.

Source: texts of the 2.10 libraries (ascend_res_manager, _c_dataengine, cluster/init.cc).
"""
_STRANGER = "a process outside muster and MindSpore: its log names none of MindSpore's watchdogs"


def terminator(log: str) -> str:
    """Which part of MindSpore sent the SIGTERM that a rank died of: by the last line that says so.

    Empty: none of them.
    """
    said = [(at, who) for words, who in OWN_TERMS if (at := log.rfind(words)) >= 0]
    return max(said)[1] if said else ""


def explained(suspect: Suspect, found: Evidence) -> Suspect:
    """The suspect with what killed it in its cause, where that is known."""
    if found.signal == SIGTERM:
        return replace(
            suspect, cause=f"{suspect.cause}, sent by {found.terminated_by or _STRANGER}"
        )
    if found.oom_killed:
        by = f": {found.kernel_word}" if found.kernel_word else " by its cgroup's counter"
        return replace(suspect, cause=f"{suspect.cause}, for memory{by}")
    return suspect


def _kernel_word(view: RankView | None) -> str:
    if view is None or view.pid is None:
        return ""
    return oom.kill_logged(view.pid, view.started_at or 0.0)


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
