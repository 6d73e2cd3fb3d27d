"""The record of barred devices on disk, under writers that die and writers side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.bars import Bar
from cluster.cpu import CpuBudget
from cluster.device import Device, DeviceKind, Node
from orchestrator.device_book import BadBook, DeviceBook, book_for

ROOT = Path(__file__).resolve().parent.parent
NOW = 1_795_435_200.0
WRITER = """
import sys
from pathlib import Path
from cluster.bars import Bar
from orchestrator.device_book import DeviceBook
book = DeviceBook(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    book.bar(Bar(f"ascend:{number}", "x" * 50, 1.0))
print("done", flush=True)
"""


@pytest.fixture
def book(tmp_path: Path) -> DeviceBook:
    """A book in a home that is not there yet."""
    return DeviceBook(tmp_path / "home" / "devices.json")


def writer(book: DeviceBook, first: int, last: int) -> subprocess.Popen[str]:
    """A process that bars devices one by one."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(book.path), str(first), str(last)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_is_not_there_is_empty(book: DeviceBook) -> None:
    """No file, no bars; and looking for them, or a look that saw nothing, makes none."""
    assert book.bars(NOW) == () and book.note({"ascend:0": ()}, NOW) == ()
    assert not book.path.parent.exists()


def test_bars_are_kept_and_expire(book: DeviceBook) -> None:
    """What was barred is barred for whoever opens the book next, until its time."""
    book.bar(Bar("ascend:3", "ECC twice", NOW, NOW + 60), Bar("ascend:1", "noisy", NOW))
    again = DeviceBook(book.path)
    assert [bar.device for bar in again.bars(NOW + 59)] == ["ascend:1", "ascend:3"]
    assert [bar.device for bar in again.bars(NOW + 60)] == ["ascend:1"]
    assert again.unbar(["ascend:1", "ascend:3"], NOW + 60) == ("ascend:1",)
    assert book.bars(NOW) == ()


def test_what_has_expired_is_forgotten(book: DeviceBook) -> None:
    """The file does not grow with every bar that ever was."""
    for day in range(3):
        book.bar(Bar(f"ascend:{day}", "x", NOW + 86400 * day, NOW + 86400 * day + 60))
    assert len(json.loads(book.path.read_text())["bars"]) == 1


def test_the_reasons_of_a_node(book: DeviceBook) -> None:
    """By the keys of its devices, all bars of one together."""
    devices = tuple(Device(DeviceKind.ASCEND, "a", index) for index in (0, 1))
    book.bar(Bar("ascend:1", "one", NOW), Bar("ascend:1", "two", NOW, by="rule"))
    found = book.withheld(Node("a", "", CpuBudget((0,)), devices), NOW)
    assert found == {"a/ascend:1": "barred until unbarred (one); barred until unbarred (two)"}


def test_faults_are_counted_over_looks(book: DeviceBook) -> None:
    """The second ECC bars once; unbarring forgets both, so that the next look does not bar."""
    assert book.note({"ascend:0": ["80DE1801"]}, NOW) == ()
    book.note({"ascend:0": ()}, NOW + 60)
    (bar,) = DeviceBook(book.path).note({"ascend:0": ["80DE1801"]}, NOW + 120)
    assert bar.until is None and "80DE1801" in bar.why
    assert book.note({"ascend:0": ["80DE1801"]}, NOW + 130) == ()
    assert book.bars(NOW + 130) == (bar,)
    book.unbar(["ascend:0"], NOW + 140)
    assert book.note({"ascend:0": ["80DE1801"]}, NOW + 150) == () and book.bars(NOW + 150) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema": 2}',
        '{"schema": 1, "bars": 3, "episodes": []}',
        '{"schema": 1, "bars": [{}], "episodes": []}',
        '{"schema": 1, "bars": [{"device": "ascend:0", "why": 1, "since": 0, "until": null, '
        '"by": "", "code": "", "uuid": ""}], "episodes": []}',
        "[" * 100_000,
    ],
)
def test_a_damaged_book_is_told(book: DeviceBook, text: str) -> None:
    """Never taken for empty, and never written over."""
    book.path.parent.mkdir()
    book.path.write_text(text)
    for attempt in (
        lambda: book.bars(NOW),
        lambda: book.note({"ascend:0": ["80DE1801"]}, NOW),
        lambda: book.bar(Bar("ascend:3", "x", NOW)),
        lambda: book.unbar(["ascend:3"], NOW),
    ):
        with pytest.raises(BadBook, match=r"devices\.json.*move it away"):
            attempt()
    assert book.path.read_text() == text


def test_two_writers_lose_nothing(book: DeviceBook) -> None:
    """What one adds between another's reading and writing is there in the end."""
    writers = [writer(book, first, first + 40) for first in (0, 40)]
    assert [one.communicate(timeout=60)[0].split()[-1] for one in writers] == ["done"] * 2
    assert len(book.bars(NOW)) == 80


def test_a_writer_killed_at_any_moment_leaves_a_whole_book(book: DeviceBook) -> None:
    """Every bar up to some one is there, and the next writer is not kept waiting."""
    for start in range(0, 5000, 1000):
        process = writer(book, start, start + 1000)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 30
        while not any(bar.device == f"ascend:{start + 3}" for bar in book.bars(NOW)):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        book.bar(Bar("gpu:0", "after", NOW))
        numbers = [int(bar.device[7:]) for bar in book.bars(NOW) if bar.device != "gpu:0"]
        mine = sorted(number for number in numbers if number >= start)
        assert mine == list(range(start, start + len(mine)))


def test_a_rehearsal_has_its_own_book(tmp_path: Path) -> None:
    """Its bars hold for itself; those of the machine lie in MUSTER_HOME."""
    environment = {"MUSTER_HOME": str(tmp_path / "home")}
    assert book_for("", environment).path == tmp_path / "home" / "devices.json"
    assert book_for(str(tmp_path / "node"), environment).path == tmp_path / "node" / "devices.json"
    assert book_for("", {}).path == Path.home() / ".muster" / "devices.json"


def test_a_home_that_is_not_there_is_told() -> None:
    """Nobody knows what is barred then: no traceback, no directory named ~ where one stands."""
    book = book_for("", {"MUSTER_HOME": "~no-such-user/x"})
    with pytest.raises(BadBook, match="set MUSTER_HOME"):
        book.bars(NOW)
    with pytest.raises(BadBook, match="no such home directory"):
        book.bar(Bar("ascend:0", "noisy", NOW))


def test_the_file_is_json_for_others(book: DeviceBook) -> None:
    """A reader needs no muster."""
    book.bar(Bar("ascend:3", "ECC twice", NOW, NOW + 60))
    document = json.loads(book.path.read_text())
    assert document["schema"] == 1 and document["bars"][0]["device"] == "ascend:3"
