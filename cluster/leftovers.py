"""Find and remove what a session of processes leaves behind. Standard library only.

`python -m cluster.leftovers DIRECTORY` kills its own session and removes the directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from cluster.detach import stat_fields

_SWEEP_TIMEOUT_S = 5.0
_REMOVE_TIMEOUT_S = 2.0
_POLL_S = 0.02


def session_members(session: int) -> list[int]:
    """Living processes of a session, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            state, _, _, sid = stat_fields(int(entry.name))[:4]
            if int(sid) == session and state not in "ZX":
                found.append(int(entry.name))
    return found


def sweep(session: int, *, spare: int | None = None) -> list[int]:
    """Kill every process of a session but `spare`; returns those that are still there.

    Tries for 5 s: a process in uninterruptible sleep cannot be killed.
    """
    deadline = time.monotonic() + _SWEEP_TIMEOUT_S
    while True:
        left = [pid for pid in session_members(session) if pid != spare]
        if not left or time.monotonic() > deadline:
            return left
        for pid in left:
            _kill_member(pid, session)
        time.sleep(_POLL_S)


def _kill_member(pid: int, session: int) -> None:
    # The pidfd is opened before the check, so a reused pid is never hit.
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if os.getsid(pid) == session:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def remove_tree(path: str) -> None:
    """Remove a directory; what a dying process is still writing there is removed again."""
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    while True:
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path) or time.monotonic() > deadline:
            return
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sweep(os.getsid(0), spare=os.getpid())
    remove_tree(sys.argv[1])
