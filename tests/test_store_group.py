"""The writer: many callers' parts in one commit, each told the truth about its own."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest

from orchestrator.states import JobState
from orchestrator.store import connections, errors
from orchestrator.store.values import Page, happened
from orchestrator.store.writer import GROUP, Writer
from tests.stores import Head, submission


class Busy:
    """A writer on a table of numbers, with a way to keep it busy while parts gather."""

    def __init__(self, path: Path) -> None:
        self.path = path
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connections.settle(connection, path)
        connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        self.writer = Writer(connection, path)

    def gather(self, *parts: Callable[[sqlite3.Connection], object]) -> list[object]:
        """What became of the parts, all of which waited behind one that took its time."""
        begun, gate = threading.Event(), threading.Event()
        first = self.writer.put(lambda _: begun.set() or gate.wait(20))
        begun.wait(20)
        futures = [self.writer.put(part) for part in parts]
        gate.set()
        wait([first, *futures], 20)
        return [one.exception() or one.result() for one in futures]

    def numbers(self) -> list[int]:
        """What another connection sees."""
        reader = sqlite3.connect(self.path)
        found = [number for (number,) in reader.execute("SELECT number FROM numbers ORDER BY 1")]
        reader.close()
        return found


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Busy]:
    """A writer of its own."""
    busy = Busy(tmp_path / "numbers.db")
    yield busy
    busy.writer.close()


def insert(number: int) -> Callable[[sqlite3.Connection], int]:
    """A part that adds a number and returns it."""

    def part(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return part


def test_parts_that_wait_share_a_commit(busy: Busy) -> None:
    """Fifty parts behind a slow one cost one fsync; each caller gets its own result."""
    before = busy.writer.commits
    assert busy.gather(*map(insert, range(50))) == list(range(50))
    assert busy.writer.commits == before + 2
    assert busy.numbers() == list(range(50))


def test_a_commit_is_an_fsync(busy: Busy) -> None:
    """The log is synchronised at every commit, whatever SQLite was built with."""

    def settings(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert busy.writer.put(settings).result(20) == ["wal", 2]


def test_a_group_is_bounded(busy: Busy) -> None:
    """A flood is committed in several groups, so that the first are told early."""
    before = busy.writer.commits
    busy.gather(*map(insert, range(GROUP + 1)))
    assert busy.writer.commits == before + 3


def test_a_failing_part_takes_nothing_with_it(busy: Busy) -> None:
    """Constraint, refusal or a bug: its own half is undone, the others are durable."""

    def half(connection: sqlite3.Connection) -> None:
        insert(100)(connection)
        raise errors.NoSuchJob("j")

    def bug(connection: sqlite3.Connection) -> None:
        insert(101)(connection)
        connection.execute("SELECT * FROM elsewhere")

    outcomes = busy.gather(insert(1), half, insert(2), insert(1), bug, insert(3))
    assert [type(one) for one in outcomes] == [
        int, errors.NoSuchJob, int, errors.StoreError, errors.StoreError, int,
    ]  # fmt: skip
    assert "UNIQUE" in str(outcomes[3]) and "no such table" in str(outcomes[4])
    assert busy.numbers() == [1, 2, 3]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, errors.StoreFull),
        (sqlite3.SQLITE_IOERR_FSYNC, errors.StoreFull),
        (sqlite3.SQLITE_CORRUPT_VTAB, errors.Damaged),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, errors.StoreBusy),
        (sqlite3.SQLITE_READONLY, errors.CannotOpen),
    ],
)
def test_what_concerns_the_file_concerns_the_group(busy: Busy, code: int, kind: type) -> None:
    """No caller is told that it is durable; the next group is tried anew."""

    def spoil(_: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("spoilt")
        error.sqlite_errorcode = code
        raise error

    outcomes = busy.gather(insert(1), spoil, insert(2))
    assert [type(one) for one in outcomes] == [kind] * 3
    assert busy.gather(insert(3)) == [3] and busy.numbers() == [3]


def test_closing_finishes_what_was_begun(busy: Busy) -> None:
    """Parts that were put before are committed; later ones are refused."""
    gate = threading.Event()
    first = busy.writer.put(lambda _: gate.wait(20))
    second = busy.writer.put(insert(1))
    closing = threading.Thread(target=busy.writer.close)
    closing.start()
    gate.set()
    closing.join(20)
    assert first.result(0) and second.result(0) == 1 and busy.numbers() == [1]
    with pytest.raises(errors.StoreClosed):
        busy.writer.put(insert(2))
    busy.writer.close()


def test_a_file_that_was_taken_away_is_not_written_to(busy: Busy) -> None:
    """Nobody is told that something is durable in a file that has no name any more."""
    busy.path.rename(busy.path.with_name("elsewhere.db"))
    with pytest.raises(errors.Damaged, match="moved away or replaced"):
        busy.writer.put(insert(1)).result(20)
    busy.path.with_name("elsewhere.db").rename(busy.path)
    assert busy.gather(insert(2)) == [2] and busy.numbers() == [2]


def test_many_callers_at_once(tmp_path: Path) -> None:
    """Sixteen threads submit, move and read: all is kept, in far fewer commits than calls."""
    with Head(tmp_path / "store" / "muster.db") as head:

        def caller(name: int) -> None:
            for number in range(20):
                job = head.submit(f"{name}-{number % 10}").job
                assert head.store.job(job).name == "small"
                event = happened("drill", number=number)
                head.store.transition(job, event, seen=JobState.QUEUED, epoch=head.epoch)

        before = head.store.commits
        threads = [threading.Thread(target=caller, args=(name,)) for name in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        jobs = head.store.jobs(page=Page(1000)).jobs
        assert len(jobs) == 160 and {one.last_event for one in jobs} == {3}
        assert len({one.number for one in jobs}) == len({one.place for one in jobs}) == 160
        assert head.store.commits - before < 640


def test_an_answer_that_nobody_waits_for(tmp_path: Path) -> None:
    """A caller may let go of its future: done if it was begun, else it never happened."""
    with Head(tmp_path / "store" / "muster.db") as head:
        given_up = [head.store.submit_soon(submission(), epoch=head.epoch) for _ in range(20)]
        cancelled = sum(one.cancel() for one in given_up)
        head.submit()
        assert len(head.store.jobs().jobs) == 21 - cancelled
