"""The shape of the store: numbered steps, each applied once, in a transaction of its own."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from orchestrator.store.connections import in_words
from orchestrator.store.errors import CannotOpen, Damaged

APPLICATION = 0x6D757374
"""SQLite's application_id of our files: "must"."""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
        "INSERT INTO meta VALUES ('epoch', 0)",
        # Submission order is `number`; the long texts are apart, so that lists read few pages.
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            job TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            user TEXT NOT NULL,
            queue TEXT NOT NULL,
            priority INTEGER NOT NULL,
            device TEXT NOT NULL,
            ranks INTEGER NOT NULL CHECK (ranks > 0),
            wait_limit REAL,
            run_limit REAL,
            run_dir TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL,
            reason TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            front INTEGER NOT NULL,
            place INTEGER NOT NULL,
            submitted_at REAL NOT NULL,
            queued_at REAL NOT NULL,
            started_at REAL,
            ended_at REAL,
            last_event INTEGER NOT NULL,
            key TEXT,
            digest TEXT NOT NULL
        )""",
        "CREATE UNIQUE INDEX jobs_by_key ON jobs (user, key) WHERE key IS NOT NULL",
        # The queue in its order; also the jobs of a state, and how many.
        "CREATE INDEX jobs_by_state ON jobs (state, priority DESC, front DESC, place)",
        "CREATE INDEX jobs_by_place ON jobs (place)",
        "CREATE INDEX jobs_by_user ON jobs (user)",
        """CREATE TABLE job_files (
            number INTEGER PRIMARY KEY REFERENCES jobs (number),
            spec TEXT NOT NULL,
            text BLOB NOT NULL
        )""",
        """CREATE TABLE events (
            number INTEGER NOT NULL REFERENCES jobs (number),
            sequence INTEGER NOT NULL CHECK (sequence > 0),
            time REAL NOT NULL,
            kind TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            state TEXT,
            reason TEXT NOT NULL,
            data TEXT NOT NULL,
            PRIMARY KEY (number, sequence)
        ) WITHOUT ROWID""",
    ),
    (
        # No foreign key is deferred: at the commit it would fail the whole group.
        """CREATE TABLE attempts (
            number INTEGER NOT NULL REFERENCES jobs (number),
            attempt INTEGER NOT NULL CHECK (attempt > 0),
            started_at REAL NOT NULL,
            ended_at REAL,
            resumed_step INTEGER NOT NULL,
            last_step INTEGER NOT NULL,
            outcome TEXT NOT NULL,
            PRIMARY KEY (number, attempt)
        ) WITHOUT ROWID""",
        """CREATE TABLE ranks (
            number INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            rank INTEGER NOT NULL CHECK (rank >= 0),
            node TEXT NOT NULL,
            device TEXT NOT NULL,
            state TEXT NOT NULL,
            pid INTEGER,
            start_time INTEGER,
            boot_id TEXT NOT NULL,
            exit_code INTEGER,
            signal INTEGER,
            ended_at REAL,
            PRIMARY KEY (number, attempt, rank),
            FOREIGN KEY (number, attempt) REFERENCES attempts (number, attempt)
        ) WITHOUT ROWID""",
        """CREATE TABLE incidents (
            serial INTEGER PRIMARY KEY AUTOINCREMENT,
            number INTEGER NOT NULL REFERENCES jobs (number),
            incident INTEGER NOT NULL CHECK (incident > 0),
            attempt INTEGER NOT NULL,
            failure TEXT NOT NULL,
            fault_at REAL NOT NULL,
            document TEXT NOT NULL,
            UNIQUE (number, incident)
        )""",
        """CREATE TABLE checkpoints (
            number INTEGER NOT NULL REFERENCES jobs (number),
            path TEXT NOT NULL,
            step INTEGER NOT NULL,
            digest TEXT NOT NULL,
            world_size INTEGER NOT NULL,
            verified INTEGER NOT NULL,
            written_at REAL NOT NULL,
            fate TEXT NOT NULL,
            PRIMARY KEY (number, path)
        ) WITHOUT ROWID""",
    ),
    (
        """CREATE TABLE bars (
            node TEXT NOT NULL,
            device TEXT NOT NULL,
            why TEXT NOT NULL,
            since REAL NOT NULL,
            until REAL,
            set_by TEXT NOT NULL,
            code TEXT NOT NULL,
            uuid TEXT NOT NULL,
            PRIMARY KEY (node, device, set_by, code)
        ) WITHOUT ROWID""",
    ),
)
"""What makes version n of version n - 1. A released step is never changed: add another one."""


def version_of(connection: sqlite3.Connection) -> int:
    """How many steps were applied; 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def recognise(connection: sqlite3.Connection, path: Path) -> None:
    """Raises CannotOpen if the file is not a store of ours, or of a newer muster."""
    with in_words(path):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        version = version_of(connection)
    if application != APPLICATION and (application or tables or version):
        raise CannotOpen(f"{path} is the SQLite file of another program; name another path")
    if version > len(STEPS):
        raise CannotOpen(
            f"{path} was written by a newer muster: its version is {version}, this one knows up to "
            f"{len(STEPS)}. Install the newer muster again, or put a backup of before in its place"
        )


def migrate(
    connection: sqlite3.Connection, path: Path, steps: Sequence[tuple[str, ...]] = STEPS
) -> int:
    """Apply the steps that are missing, and return how many. A failed one leaves the one before.

    Foreign keys are checked after each, and held to from then on.
    """
    with in_words(path):
        # A step may build a table anew; within a transaction this cannot be switched.
        connection.execute("PRAGMA foreign_keys = OFF")
        before = version_of(connection)
        for number in range(before, len(steps)):
            _apply(connection, path, number + 1, steps[number])
        connection.execute("PRAGMA foreign_keys = ON")
    return len(steps) - before


def _apply(
    connection: sqlite3.Connection, path: Path, version: int, statements: tuple[str, ...]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.execute(statement)
        if version == 1:
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute("INSERT INTO meta VALUES ('instance', ?)", (secrets.token_hex(8),))
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken:
            raise Damaged(f"{path}: version {version} would leave {broken[0]} without its parent")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
