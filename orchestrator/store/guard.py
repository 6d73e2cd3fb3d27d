"""What must be true before SQLite sees the file: whose it is, where it lies, that nobody has it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from orchestrator import journal, processes
from orchestrator.layout import lock_beside, store_reserve, sync_directory, write_ahead_log
from orchestrator.store import filesystem
from orchestrator.store.connections import way_out
from orchestrator.store.errors import CannotOpen, Damaged, InUse

_HEADER = b"SQLite format 3\0"  # sqlite.org/fileformat.html, 1.3
_RESERVE = 4 << 20  # SQLite reuses a log of this size for ever
_LOCK_PATIENCE = 2.0  # a killed controller is not gone at once


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """What the system refuses in the block, as CannotOpen."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise CannotOpen(f"{where}: {error.strerror or error}") from error


def prepare_directory(directory: Path) -> None:
    """Have a directory of ours alone, on a disk of this machine. Raises CannotOpen."""
    with refusing(directory):
        _make(directory)
        status = directory.stat()
        if status.st_uid != os.geteuid():
            raise CannotOpen(
                f"{directory} belongs to user {status.st_uid}, not to you: whoever has the "
                "directory can replace the store"
            )
        if status.st_mode & 0o077:
            raise CannotOpen(
                f"{directory} is open to others (mode {stat.S_IMODE(status.st_mode):04o}); "
                f"close it: chmod 700 {directory}"
            )
        if not os.access(directory, os.W_OK | os.X_OK):
            raise CannotOpen(
                f"{directory} cannot be written to: the store keeps its log beside itself. Make it "
                "writable, or set MUSTER_HOME to another directory"
            )
        objection = filesystem.objection(directory)
    if objection:
        raise CannotOpen(objection)


def _make(directory: Path) -> None:
    """Make what is missing of the directory, durably: a store in a lost directory is lost."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in missing:
        sync_directory(made.parent)


def take_lock(path: Path) -> int:
    """Become the only one with the store, until the descriptor closes. Raises InUse, CannotOpen.

    The lock is the kernel's: it cannot outlive its holder, however that one ends.
    """
    with refusing(path):
        descriptor = os.open(lock_beside(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for(descriptor, path)
        with refusing(path):
            me = processes.identify(os.getpid())
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(me) if me else {}).encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _wait_for(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InUse(
                    f"{path} is in use by another controller, {_holder(descriptor)}; there can be "
                    "only one. End that one (`muster down`) or set another MUSTER_HOME"
                ) from None
        time.sleep(0.02)


def _holder(descriptor: int) -> str:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return f"process {int(json.loads(os.pread(descriptor, 4096, 0))['pid'])}"
    return "whose process is not known"


def keep_reserve(path: Path) -> None:
    """Have the reserve of the store at `path`, where there is room for it."""
    reserve = store_reserve(path)
    if not reserve.exists():
        with contextlib.suppress(OSError):
            journal.keep_reserve(reserve, _RESERVE)


def give_up_reserve(path: Path) -> bool:
    """Make room by removing the reserve; False if there is none."""
    try:
        store_reserve(path).unlink()
    except OSError:
        return False
    return True


def prepare_file(path: Path) -> None:
    """Have a file that SQLite may open, readable to its owner only. Raises CannotOpen, Damaged.

    Only while the lock is held and nothing of this process has the file open.
    """
    with refusing(path):
        log = write_ahead_log(path)
        if not (path.exists() and path.stat().st_size) and log.exists() and log.stat().st_size:
            # SQLite would delete that log without a word, and what it holds with it.
            raise Damaged(f"{path} is gone or empty, but {log} is there. {way_out(path)}")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
        try:
            _inspect(descriptor, path)
        finally:
            os.close(descriptor)
        sync_directory(path.parent)


def _inspect(descriptor: int, path: Path) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise CannotOpen(f"{path} is no file")
    if status.st_mode & 0o077:
        os.fchmod(descriptor, 0o600)
    if status.st_size and os.pread(descriptor, len(_HEADER), 0) != _HEADER:
        raise CannotOpen(
            f"{path} is no SQLite file (it does not begin like one). If it was the store: "
            f"{way_out(path)}"
        )
