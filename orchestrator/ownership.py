"""Whose a run is: the lock on its directory, and the word left in its spool.

A lock is the kernel's, so it cannot outlive its holder. A spool in tmpfs can: it belongs to the
controller and to the supervisor that are named in it, and is removed when both are gone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from orchestrator import processes
from orchestrator.launch import MARK
from orchestrator.layout import RunDirectory, Spool, read_json, write_json

_STALE_AFTER = 60.0
_LOCK_PATIENCE = 1.0
_CLEAR_TIMEOUT = 5.0


class InHands(RuntimeError):
    """Another process drives the run now."""


def me() -> dict[str, object]:
    """This process, for ever."""
    identity = processes.identify(os.getpid())
    return asdict(identity) if identity else {"pid": os.getpid()}


def new_run_id() -> str:
    """A name for all processes of a run, its attempts and controllers included."""
    return secrets.token_hex(8)


@contextmanager
def driving(directory: RunDirectory) -> Iterator[None]:
    """Be the only one that drives the run. Raises InHands, OSError."""
    descriptor = os.open(directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take_lock(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        live = read_json(directory.live) or {}
        who = f"process {live['pid']}" if "pid" in live else "another process"
        raise InHands(f"{directory.root} is being driven by {who} now") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int) -> None:
    """Lock, trying again for a second: `status` holds it for a moment to see who drives."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def own(spool: Spool, directory: RunDirectory, run_id: str) -> None:
    """Leave word whose spool it is, for whoever finds it after we were killed."""
    word = {"ray": str(spool.ray), "run_dir": str(directory.root), "run_id": run_id}
    write_json(spool.owner, {**me(), **word})


def belongs(spool: Spool, directory: RunDirectory) -> bool:
    """Whether a spool is there, and is that of a run."""
    owner = read_json(spool.owner) or {}
    return bool(owner.get("run_dir") == str(directory.root))


def clear(run_id: str, spool: Spool | None) -> None:
    """Take away all processes of a run that nobody drives, and its spool."""
    if run_id:
        processes.clear_marked(MARK, run_id, _CLEAR_TIMEOUT)
    if spool is not None:
        spool.remove()


def remove_stale_spools() -> None:
    """Take away what a run left whose controller and supervisor were both killed.

    A run may have been taken up again, with another spool: then its processes are left alone.
    """
    found = [(spool, read_json(spool.owner) or {}) for spool in Spool.all()]
    stale = [(spool, owner) for spool, owner in found if not _in_use(spool, owner)]
    living = {owner.get("run_id") for spool, owner in found if _in_use(spool, owner)}
    for spool, owner in stale:
        run_id = owner.get("run_id", "none")
        if run_id not in living:
            processes.clear_marked(MARK, run_id, _CLEAR_TIMEOUT)
        shutil.rmtree(spool.ray, ignore_errors=True)
        spool.remove()


def _in_use(spool: Spool, owner: dict[str, Any]) -> bool:
    """Whether somebody who uses it lives, or it is so young that its user may be just coming."""
    try:
        young = time.time() - spool.owner.stat().st_mtime <= _STALE_AFTER
    except OSError:
        return True  # it is just ending
    return young or _alive(owner) or _alive(read_json(spool.user) or {})


def _alive(identity: dict[str, Any]) -> bool:
    """Whether the process that left its identity there still runs."""
    return processes.Identity(
        identity.get("pid", 0), identity.get("start_time", 0), identity.get("boot_id", "")
    ).alive()
