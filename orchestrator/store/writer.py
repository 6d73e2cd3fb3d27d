"""The one thread that writes. Many callers' parts are made durable by one commit.

A commit costs an fsync, however much is in it. While one is under way, parts wait and the next
takes them all; so the harder the store is used, the fewer fsyncs a part costs. A part is a
savepoint: one that fails takes nothing with it. A caller is told only what is on disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from orchestrator.store.connections import identity, in_words, spoils_the_rest, way_out, worded
from orchestrator.store.errors import Damaged, StoreClosed, StoreFull
from orchestrator.store.guard import give_up_reserve

T = TypeVar("T")

GROUP = 256
"""The most parts in a commit, so that the first in a flood is not told late."""


@dataclass(frozen=True)
class _Part:
    work: Callable[[sqlite3.Connection], Any]
    future: Future[Any]


_Outcome = tuple[Any, Exception | None]
"""What a part returned, or why it failed alone."""


class Writer:
    """Owns the writing connection. `commits` counts those that were made."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.commits = 0
        self._connection = connection
        self._path = path
        self._identity = identity(path)
        self._waiting: SimpleQueue[_Part | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Have `work` done in a savepoint. The future is done when its commit is durable.

        It holds what `work` returned, or why nothing of it was kept: what it raised itself, or
        StoreFull and the like for all of the group.
        """
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise StoreClosed(f"{self._path} was closed")
            self._waiting.put(_Part(work, future))
        return future

    def close(self) -> None:
        """Finish what was put before, then close the connection."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            group, more = self._next_group()
            self._commit([one for one in group if one.future.set_running_or_notify_cancel()])
        # The last connection to close moves the log into the file; failing that, the next start.
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _next_group(self) -> tuple[list[_Part], bool]:
        """Wait for a part and take those that wait behind it; False after the last ever."""
        group: list[_Part] = []
        part = self._waiting.get()
        while part is not None:
            group.append(part)
            if len(group) == GROUP:
                break
            try:
                part = self._waiting.get_nowait()
            except Empty:
                break
        return group, part is not None

    def _commit(self, group: list[_Part]) -> None:
        if not group:
            return
        try:
            outcomes = self._transaction(group)
        except BaseException as error:  # the thread outlives everything; the callers are told
            for part in group:
                part.future.set_exception(error)
            return
        self.commits += 1
        for part, (result, failure) in zip(group, outcomes, strict=True):
            if failure is None:
                part.future.set_result(result)
            else:
                part.future.set_exception(failure)

    def _transaction(self, group: list[_Part]) -> list[_Outcome]:
        """All parts, durable when this returns; on a full disk the reserve is given up once."""
        try:
            return self._try(group)
        except StoreFull:
            if not give_up_reserve(self._path):
                raise
        return self._try(group)

    def _try(self, group: list[_Part]) -> list[_Outcome]:
        self._expect_our_file()
        try:
            with in_words(self._path):
                self._connection.execute("BEGIN IMMEDIATE")
                outcomes = [self._perform(part) for part in group]
                self._connection.execute("COMMIT")
                return outcomes
        except BaseException:
            self._undo()
            raise

    def _perform(self, part: _Part) -> _Outcome:
        """One part in its savepoint. Raises sqlite3.Error if the whole group is lost."""
        connection = self._connection
        connection.execute("SAVEPOINT part")
        try:
            result = part.work(connection)
        except Exception as error:
            # On some errors SQLite has undone everything by itself.
            if spoils_the_rest(error) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
            return None, worded(self._path, error) if isinstance(error, sqlite3.Error) else error
        connection.execute("RELEASE part")
        return result, None

    def _undo(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _expect_our_file(self) -> None:
        """A file that was removed still takes writes; nobody would ever find them."""
        try:
            still = identity(self._path) == self._identity
        except OSError:
            still = False
        if not still:
            raise Damaged(
                f"{self._path} was moved away or replaced while in use; nothing is written to it "
                f"any more. Stop the controller. {way_out(self._path)}"
            )
