"""A copy of the store as of one instant, made while it is in use."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from orchestrator.layout import aside, beside_store, sync_directory
from orchestrator.store.connections import in_words
from orchestrator.store.errors import CannotOpen, Damaged


def write(source: sqlite3.Connection, store: Path, target: Path) -> Path:
    """Copy the store that `source` reads to `target`: aside, checked, fsynced, renamed; 0600.

    A backup of an earlier time under that name is replaced. Returns the absolute path. Raises
    CannotOpen where it cannot be written, StoreFull where there is no room.
    """
    target = target.expanduser().absolute()
    if target.resolve() in {path.resolve() for path in beside_store(store)}:
        raise CannotOpen(f"{target} belongs to the store itself; name another file")
    unfinished = aside(target)
    try:
        # Ours before SQLite fills it, so that nobody else ever reads a part of it.
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _copy(source, unfinished)
        _sync(unfinished)
        os.replace(unfinished, target)
        sync_directory(target.parent)
    except OSError as error:
        raise CannotOpen(f"{error.filename or target}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return target


def _copy(source: sqlite3.Connection, target: Path) -> None:
    with in_words(target), closing(sqlite3.connect(target, isolation_level=None)) as copy:
        source.backup(copy)
        # One file, whole without a log beside it. Exclusive: no shared memory on the way.
        copy.execute("PRAGMA locking_mode = EXCLUSIVE")
        copy.execute("PRAGMA journal_mode = DELETE")
        verdict = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise Damaged(f"{target}: the copy is damaged ({verdict}); it was thrown away")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
