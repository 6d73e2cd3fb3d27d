"""Connections to the store's file, and SQLite's errors in the store's own words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from orchestrator.store.errors import (
    CannotOpen,
    Damaged,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreFull,
)

BUSY_SECONDS = 10.0
"""How long another program may hold the file: a person's `sqlite3`, say."""

_IDLE_READERS = 8


def writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes; `settle` and `migrations.migrate` make it ready."""
    with in_words(path):
        return _connect(path, "rw")


def settle(connection: sqlite3.Connection, path: Path) -> None:
    """WAL with full synchronisation: a commit returns after the fsync of the log.

    Only this connection writes, and so only it moves the log into the file: SQLite before 3.51.3
    may damage a store when one connection does so while another commits (its "WAL-reset bug").
    """
    with in_words(path):
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise CannotOpen(f"{path}: SQLite has no write-ahead log here (it says {mode!r})")
        connection.execute("PRAGMA synchronous = FULL")


class Readers:
    """Connections that only read, lent one to a caller; a reader never waits for the writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: all that is read through it is of one instant."""
        if self._closed:
            raise StoreClosed(f"{self._path} was closed")
        with in_words(self._path):
            try:
                connection = self._idle.get_nowait()
            except Empty:
                connection = _connect(self._path, "ro")
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
            except StoreError:
                connection.execute("ROLLBACK")
                self._give_back(connection)
                raise
            except BaseException as error:
                connection.close()
                if isinstance(error, (ValueError, KeyError, TypeError)):
                    # No value of ours reads so: SQLite's checks do not look into the rows.
                    said = f"damaged ({type(error).__name__}: {error})"
                    raise Damaged(f"{self._path}: {said}. {way_out(self._path)}") from error
                raise
        self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if self._closed or self._idle.qsize() >= _IDLE_READERS:
            connection.close()
        else:
            self._idle.put(connection)

    def close(self) -> None:
        """Close those that nobody has; the others close when they come back."""
        self._closed = True
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Transactions are begun and ended by us; one thread at a time is ours to see to.
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_CLOSED_TO_US = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}


def spoils_the_rest(error: Exception) -> bool:
    """Whether it is SQLite's and concerns the file, not only the statement that met it."""
    return (
        isinstance(error, sqlite3.Error)
        and _primary(error) in _FULL | _DAMAGED | _BUSY | _CLOSED_TO_US
    )


def worded(path: Path, error: sqlite3.Error) -> StoreError:
    """The store's error for one of SQLite's."""
    code = _primary(error)
    if code in _FULL:
        return StoreFull(
            f"{path}: no room, or the disk fails ({error}). No job is taken in until "
            f"{path.parent} has room again; running ranks go on"
        )
    if code in _DAMAGED:
        return Damaged(f"{path}: damaged ({error}). {way_out(path)}")
    if code in _BUSY:
        return StoreBusy(f"{path}: another program holds it ({error}); close that program")
    if code in _CLOSED_TO_US:
        return CannotOpen(f"{path}: cannot be read and written ({error})")
    return StoreError(f"{path}: {error}")


def way_out(path: Path) -> str:
    """What a person does about a damaged store."""
    return (
        f"Move {path}, {path.name}-wal and {path.name}-shm away and put the newest backup in its "
        "place; without one, start with an empty store: run directories hold their own records, "
        "and `muster resume RUN_DIR` continues them"
    )


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """SQLite's errors of the block as the store's."""
    try:
        yield
    except sqlite3.Error as error:
        raise worded(path, error) from error


def _primary(error: sqlite3.Error) -> int:
    # Errors that the Python module raises by itself carry no code.
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def identity(path: Path) -> tuple[int, int]:
    """Which file it is. Raises OSError. Nobody may open the file but SQLite: closing any
    descriptor of it would drop the locks that SQLite holds (fcntl(2))."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
