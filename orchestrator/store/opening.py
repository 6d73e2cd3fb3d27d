"""From an open file to a store: ours, whole, of this version, with its log."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from orchestrator.store import guard, migrations
from orchestrator.store.connections import in_words, settle, way_out
from orchestrator.store.errors import Damaged, StoreFull


def make_ready(connection: sqlite3.Connection, path: Path) -> None:
    """Check the file, bring it up and have it durable. Raises CannotOpen, Damaged, StoreFull."""
    try:
        _check_and_migrate(connection, path)
    except StoreFull:
        # A controller that is started on a full disk has running jobs to look after.
        if not guard.give_up_reserve(path):
            raise
        _check_and_migrate(connection, path)


def _check_and_migrate(connection: sqlite3.Connection, path: Path) -> None:
    migrations.recognise(connection, path)
    _expect_whole(connection, path)
    settle(connection, path)
    migrations.migrate(connection, path)


def _expect_whole(connection: sqlite3.Connection, path: Path) -> None:
    """Raises Damaged. `quick_check` leaves out only whether indexes match their tables."""
    with in_words(path):
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
        orphans = connection.execute("PRAGMA foreign_key_check").fetchone()
    if orphans:
        found.append(f"rows of {orphans[0]} without their {orphans[2]}")
    wrong = [line for line in found if line != "ok"]
    if wrong:
        raise Damaged(f"{path}: damaged ({'; '.join(wrong)}). {way_out(path)}")
