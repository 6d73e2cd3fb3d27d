"""The journal: whole lines or none, durable, shared by several writers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import journal
from orchestrator.journal import (
    Journal,
    JournalError,
    append_line,
    keep_reserve,
    read_events,
    read_lines,
)
from orchestrator.states import JobState
from tests.support_core import python

APPENDER = """
import sys
from pathlib import Path
from orchestrator.journal import append_line
for number in range(40):
    append_line(Path(sys.argv[1]), {"who": sys.argv[2], "number": number, "text": "x" * 300})
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal is."""
    return tmp_path / "events.jsonl"


def test_events_come_back_as_written(path: Path) -> None:
    """Kind, reason, attempt, state and data survive the way through the file."""
    written = [
        Journal(path).append("created", "job x", state=JobState.QUEUED),
        Journal(path).append("failure", "é\n✓", attempt=2, rank=3, free=False, left=None),
    ]
    assert read_events(path) == written
    assert read_events(path.with_name("none")) == []


@pytest.mark.parametrize(
    "torn",
    [
        b'{"time":1,"kind":"half',
        b"{",
        b'"a text"',
        b"[1]",
        b"\xff\xfe broken",
        b"\0" * 4,
        b"\0" * 5,
        b"\0" * 4093,
    ],
)
def test_a_torn_line_is_skipped_and_closed_off(path: Path, torn: bytes) -> None:
    """Whatever a crash left at the end, the lines before and after it are read."""
    Journal(path).append("first")
    with open(path, "ab") as file:
        file.write(torn)
    assert [event.kind for event in read_events(path)] == ["first"]
    Journal(path).append("second")
    assert [event.kind for event in read_events(path)] == ["first", "second"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_any_cut_leaves_whole_lines(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A journal cut at any byte yields the events before the cut, and takes new ones."""
    path = tmp_path_factory.mktemp("cut") / "events.jsonl"
    for number in range(5):
        append_line(path, {"kind": "k", "number": number, "text": "é" * number})
    raw = path.read_bytes()[: cut % (path.stat().st_size + 1)]
    path.write_bytes(raw)
    whole = raw.count(b"\n") + (raw[-1:] == b"}" and raw[-2:-1] == b'"')
    assert [line["number"] for line in read_lines(path)] == list(range(whole))
    append_line(path, {"number": 99})
    assert [line["number"] for line in read_lines(path)] == [*range(whole), 99]


def test_a_line_is_on_disk_before_the_call_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written once, then fsynced, then closed; the first line's file has its name on disk too."""
    calls: list[str] = []
    for name in ("write", "fsync", "close"):
        real = getattr(os, name)

        def traced(*arguments: object, name: str = name, real: object = real) -> object:
            calls.append(name)
            return real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(journal.os, name, traced)
    append_line(path, {"kind": "x"})
    assert calls == ["write", "fsync", "fsync", "close", "close"]
    calls.clear()
    append_line(path, {"kind": "y"})
    assert calls == ["write", "fsync", "close"]


def test_a_full_disk_is_an_error_and_leaves_the_rest_readable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a line that fitted raises OSError; later, with room again, lines go on."""
    append_line(path, {"number": 1})
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
        with pytest.raises(OSError, match="fitted"):
            append_line(path, {"number": 2})
    append_line(path, {"number": 3})
    assert [line["number"] for line in read_lines(path)] == [1, 3]


def disk_of(room: Callable[[], bool]) -> Callable[[int, bytes], int]:
    """A stand-in for `os.write` on a disk that has room only while `room` says so."""
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if not room():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    return write


def test_a_reserve_pays_for_the_last_words(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the reserve is given up once, and the event is recorded."""
    reserve = path.with_name("reserve")
    keep_reserve(reserve, 4096)
    assert reserve.stat().st_blocks * 512 >= 4096
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", disk_of(lambda: not reserve.exists()))
        Journal(path, reserve).append("failed", "the disk is full")
    assert [event.kind for event in read_events(path)] == ["failed"]
    assert not reserve.exists()


def test_without_room_the_journal_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the reserve does not help, or there is none, the error is the journal's own."""
    reserve = path.with_name("reserve")
    keep_reserve(reserve, 4096)
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", disk_of(lambda: False))
        for _ in range(2):
            with pytest.raises(JournalError, match="No space left"):
                Journal(path, reserve).append("failed")
    with pytest.raises(JournalError):
        Journal(path / "none" / "events.jsonl").append("failed")


def test_writers_side_by_side_lose_nothing(path: Path) -> None:
    """Three processes append at once: every line is there, whole, each writer's in order."""
    writers = [python(APPENDER, str(path), name) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = list(read_lines(path))
    assert len(lines) == 120
    for name in "abc":
        assert [line["number"] for line in lines if line["who"] == name] == list(range(40))
    assert all(json.loads(line) for line in path.read_bytes().splitlines() if line)
