"""How a rank shows where it is: on a signal it writes the stacks of all its threads to a file.

Python's own faulthandler does that from C, so a main thread inside a collective answers too. A
real-time signal is used, since SIGUSR1 and SIGUSR2 are the job's. Standard library only.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

from orchestrator.layout import RunDirectory

STACK_SIGNAL = signal.SIGRTMIN + 11
"""Ends a process that has no handler for it: to be sent only to one that has."""

_FILES: dict[int, FileIO] = {}  # by pid: a file that is open must not be collected


def install(environment: Mapping[str, str]) -> None:
    """Answer `STACK_SIGNAL` from here on. Nothing outside muster; never an error."""
    path = _file_of(environment)
    if path is None or os.getpid() in _FILES:
        return
    try:
        file = FileIO(str(path), "a")
        faulthandler.register(STACK_SIGNAL, file, all_threads=True, chain=False)
    except (OSError, ValueError, RuntimeError):
        return  # evidence is worth no rank
    _FILES[os.getpid()] = file


def _file_of(environment: Mapping[str, str]) -> Path | None:
    run_dir, rank = environment.get("MUSTER_RUN_DIR"), environment.get("RANK_ID", "")
    attempt = environment.get("MUSTER_ATTEMPT", "")
    if not (run_dir and rank.isdigit() and attempt.isdigit()):
        return None
    return RunDirectory(Path(run_dir)).attempt(int(attempt)).stacks(int(rank))
