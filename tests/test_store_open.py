"""Opening a store: what is refused and why, migrations, backups."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.layout import store_file
from orchestrator.store import Store, filesystem, migrations
from orchestrator.store.errors import CannotOpen, Damaged, InUse, StoreError
from orchestrator.store.values import Page
from tests.stores import Head, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store will be."""
    return tmp_path / "store" / "muster.db"


@pytest.fixture
def filled(path: Path) -> Path:
    """A store of some jobs that nobody has open."""
    with Head(path) as head:
        for number in range(40):
            head.submit(str(number))
    return path


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask: the directory 0700; file, log and shared memory 0600."""
    before = os.umask(0)
    try:
        path = store_file({"MUSTER_HOME": str(tmp_path / "a" / "home")})
        with Head(path) as head:
            head.submit()
            names = {one.name: mode(one) for one in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert mode(path.parent) == 0o700
    assert names == dict.fromkeys(
        ("muster.db", "muster.db-wal", "muster.db-shm", "muster.db.lock", "muster.db.reserve"),
        0o600,
    )


def test_a_directory_open_to_others_is_refused(filled: Path) -> None:
    """The message has the command that closes it; a file open to others is closed."""
    filled.chmod(0o644)
    filled.parent.chmod(0o755)
    with pytest.raises(CannotOpen, match=f"mode 0755.*chmod 700 {filled.parent}"):
        Store.open(filled)
    filled.parent.chmod(0o700)
    Store.open(filled).close()
    assert mode(filled) == 0o600


def test_there_is_one_controller(path: Path) -> None:
    """A second process is told who has the store; once that one is killed, it may have it."""
    holder = start("store_writer.py", path, "a", 1)
    try:
        assert holder.stdout and holder.stdout.readline() == "[]\n"
        with pytest.raises(InUse, match=f"another controller, process {holder.pid};.*muster down"):
            Store.open(path)
    finally:
        holder.kill()
        holder.communicate()
    with Store.open(path) as store, pytest.raises(InUse, match=f"process {os.getpid()}"):
        Store.open(store.path)


def test_the_lock_goes_where_opening_fails(path: Path) -> None:
    """A refusal leaves nothing locked, open or changed."""
    path.parent.mkdir(mode=0o700)
    path.write_text("not a store, and longer than a header")
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(CannotOpen, match="is no SQLite file"):
            Store.open(path)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert path.read_text() == "not a store, and longer than a header"
    path.unlink()
    Store.open(path).close()


def test_the_numbers_of_file_systems_are_the_kernels() -> None:
    """`type_of` says what stat(1) says."""
    for place in ("/", "/dev/shm", "/proc"):
        shown = subprocess.check_output(["stat", "-f", "-c", "%t", place], text=True)
        assert filesystem.type_of(Path(place)) == int(shown, 16)
    with pytest.raises(FileNotFoundError):
        filesystem.type_of(Path("/no/such/place"))


@pytest.mark.parametrize("number", filesystem.REMOTE)
def test_no_store_on_a_network_file_system(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Refused by name before anything is made there, with what to set."""
    monkeypatch.setattr(filesystem, "type_of", lambda _: number)
    with pytest.raises(CannotOpen, match="MUSTER_HOME") as refused:
        Store.open(path)
    assert filesystem.REMOTE[number] in str(refused.value)
    assert list(path.parent.iterdir()) == []


def test_a_store_in_memory_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works, with a warning that it does not last; one on a disk has none."""
    monkeypatch.setattr(filesystem, "type_of", lambda _: 0xEF53)
    with Store.open(path) as store:
        assert store.warnings == ()
    monkeypatch.setattr(filesystem, "type_of", lambda _: 0x01021994)
    with Store.open(path) as store:
        (warning,) = store.warnings
    assert "tmpfs" in warning and "forgotten" in warning


@pytest.mark.parametrize("there", [False, True])
def test_a_read_only_directory(tmp_path: Path, there: bool) -> None:
    """Told as such, whether the store is there already or not."""
    script = (
        'mount -t tmpfs none "$1" && mkdir -m 700 "$1/store" && '
        + ('cp "$2" "$1/store/muster.db" && touch "$1/store/muster.db.lock" && ' if there else "")
        + 'mount -o remount,ro "$1" && shift 2 && exec "$@"'
    )
    made = tmp_path / "made" / "muster.db"
    Store.open(made).close()
    place = tmp_path / "place"
    place.mkdir()
    before = ("unshare", "-rm", "sh", "-c", script, "sh", str(place), str(made))
    process = start("store_writer.py", place / "store" / "muster.db", "a", 1, before=before)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "CannotOpen" in said and "cannot be written to" in said


def test_what_is_not_a_plain_file(path: Path, tmp_path: Path) -> None:
    """A link or a directory in the store's place is refused."""
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotOpen, match=str(path)):
        Store.open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CannotOpen, match=str(path)):
        Store.open(path)
    assert not (tmp_path / "elsewhere").exists()


def test_another_programs_file_is_left_alone(path: Path) -> None:
    """A SQLite file that is no store of ours is refused, and not changed by a byte."""
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE jobs (x)")
    content = path.read_bytes()
    with pytest.raises(CannotOpen, match="of another program"):
        Store.open(path)
    assert path.read_bytes() == content


def test_a_newer_store_is_refused(filled: Path) -> None:
    """With both versions and what to do; it stays as it was."""
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(CannotOpen, match=r"newer muster: its version is 99, this one knows up to"):
        Store.open(filled)
    with closing(sqlite3.connect(filled)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def shape(path: Path) -> list[tuple[str, ...]]:
    """Every table and index."""
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.execute("SELECT type, name, sql FROM sqlite_master"), key=str)


@pytest.mark.parametrize("version", range(len(migrations.STEPS)))
def test_a_store_of_any_version_is_brought_up(path: Path, filled: Path, version: int) -> None:
    """Its jobs are kept, and it ends in the shape of a new one."""
    new = shape(filled)
    with closing(sqlite3.connect(filled)) as connection:
        tables = ("jobs", "job_files", "events", "meta")
        kept = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    filled.unlink()
    old = sqlite3.connect(path, isolation_level=None)
    assert migrations.migrate(old, path, migrations.STEPS[:version]) == version
    if version:
        old.execute("DELETE FROM meta")
        for table, rows in kept.items():
            holes = ", ".join("?" * len(rows[0]))
            old.executemany(f"INSERT INTO {table} VALUES ({holes})", rows)
    old.close()
    with Head(path) as head:
        assert len(head.store.jobs(page=Page(1000)).jobs) == (40 if version else 0)
        assert head.epoch == (2 if version else 1)
        head.submit()
    assert shape(path) == new


def test_a_step_that_fails_leaves_the_version_before(filled: Path) -> None:
    """Nothing of it is there, and the store opens as it was."""
    before = shape(filled)
    broken = (*migrations.STEPS, ("CREATE TABLE more (x)", "INSERT INTO nowhere VALUES (1)"))
    orphaned = (*migrations.STEPS, ("DELETE FROM jobs",))
    for steps, said in ((broken, "nowhere"), (orphaned, "without its parent")):
        with closing(sqlite3.connect(filled, isolation_level=None)) as connection:
            with pytest.raises(StoreError, match=said):
                migrations.migrate(connection, filled, steps)
            assert migrations.version_of(connection) == len(migrations.STEPS)
    assert shape(filled) == before
    with Store.open(filled) as store:
        assert len(store.jobs(page=Page(1000)).jobs) == 40


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Damage a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_damaged_store_is_told_with_the_way_out(filled: Path) -> None:
    """Pages overwritten, the end cut off, rows without their parent: never opened."""
    whole = filled.read_bytes()

    def orphan() -> None:
        with closing(sqlite3.connect(filled)) as connection:
            connection.execute("DELETE FROM jobs WHERE number = 7")
            connection.commit()

    damages = [
        lambda: overwrite(filled, 4096, b"\xff" * 4096 * 3),
        lambda: overwrite(filled, 100, b"\xff" * 3000),
        lambda: os.truncate(filled, len(whole) // 8192 * 4096),
        lambda: os.truncate(filled, 5000),
        orphan,
    ]
    for damage in damages:
        filled.write_bytes(whole)
        damage()
        with pytest.raises(Damaged, match=r"muster\.db-wal.*newest backup.*muster resume RUN_DIR"):
            Store.open(filled)
    filled.write_bytes(whole)
    Store.open(filled).close()


def test_any_damage_is_an_error_of_ours(filled: Path) -> None:
    """Bytes changed anywhere: it opens and reads, or is refused in our words; never otherwise."""
    whole, draw = filled.read_bytes(), random.Random(5)
    refused = 0
    for _ in range(60):
        filled.write_bytes(whole)
        spot = draw.randrange(len(whole))
        overwrite(filled, spot, draw.randbytes(draw.choice([1, 16, 600]))[: len(whole) - spot])
        try:
            with Store.open(filled) as store:
                for job in store.jobs(page=Page(1000)).jobs:
                    store.events(job.job)
                    store.job_file(job.job)
        except StoreError:
            refused += 1
    assert refused > 10


def test_a_log_without_its_file_is_not_thrown_away(path: Path) -> None:
    """SQLite would delete the log of a file that is gone; what it holds is worth more."""
    holder = start("store_writer.py", path, "a", 1)
    assert holder.stdout and [holder.stdout.readline() for _ in range(3)]
    holder.kill()
    holder.communicate()
    log = path.with_name("muster.db-wal")
    size = log.stat().st_size
    assert size > 0
    aside = path.rename(path.with_name("moved"))
    for prepare in (lambda: None, path.touch):
        prepare()
        with pytest.raises(Damaged, match=r"gone or empty, but .*muster\.db-wal is there"):
            Store.open(path)
    assert log.stat().st_size == size
    aside.replace(path)
    with Store.open(path) as store:
        assert store.jobs().jobs


def test_a_backup_is_a_store(path: Path, tmp_path: Path) -> None:
    """Taken while jobs come in: one whole file, for its owner only, that opens as of an instant."""
    target = tmp_path / "backups" / "monday.db"
    target.parent.mkdir()
    target.write_text("an older one")
    with Head(path) as head:
        first = head.submit().job
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                head.submit()

        caller = threading.Thread(target=busy)
        caller.start()
        try:
            for _ in range(3):
                assert head.store.backup(target) == target
        finally:
            stop.set()
            caller.join()
        total = len(head.store.jobs(page=Page(10_000)).jobs)
    assert [one.name for one in target.parent.iterdir()] == ["monday.db"]
    assert mode(target) == 0o600
    # File format 1.3: needs no log beside it, so that it can be read from a read-only medium.
    assert target.read_bytes()[18:20] == b"\1\1"
    path.unlink()
    target.rename(path)
    with Head(path) as head:
        assert head.epoch == 2
        jobs = head.store.jobs(page=Page(10_000)).jobs
        assert 1 <= len(jobs) <= total and jobs[-1].job == first
        assert all(len(head.store.events(one.job)) == one.last_event for one in jobs)


def test_a_backup_never_harms(path: Path, tmp_path: Path) -> None:
    """Not over the store's own files, by whatever name; not where it cannot be written."""
    link = tmp_path / "link"
    with Head(path) as head:
        job = head.submit().job
        link.symlink_to(path.parent)
        for name in ("", "-wal", "-shm", ".lock", ".reserve"):
            for place in (path.parent, link):
                with pytest.raises(CannotOpen, match="belongs to the store itself"):
                    head.store.backup(place / f"muster.db{name}")
        with pytest.raises(CannotOpen, match="No such file"):
            head.store.backup(tmp_path / "nowhere" / "b.db")
        with pytest.raises(CannotOpen, match="directory"):
            head.store.backup(tmp_path)
        assert head.store.job(job) and not list(tmp_path.glob(".*"))
