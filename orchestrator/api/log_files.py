"""Raw logs of ranks, read in bounded pieces from wherever a reader stands."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.api.encoding import encoded
from orchestrator.layout import RunDirectory

PIECE = 1 << 16
"""Bytes that are read at once. A longer line comes in several."""


@dataclass(frozen=True)
class Log:
    """A log and how far it was read. `rank` None is the rendezvous scheduler."""

    path: Path
    rank: int | None
    attempt: int
    offset: int = 0


def logs_of(
    directory: RunDirectory, attempt: int, rank: int | None, *, scheduler: bool
) -> list[Log]:
    """The logs of an attempt that are there: all ranks', one's, or the scheduler's."""
    files = directory.attempt(attempt)
    if scheduler or rank is not None:
        number = None if scheduler else rank
        return [Log(files.log(number), number, attempt)]
    try:
        names = os.listdir(files.logs)
    except OSError:
        return []
    ranks = sorted(number for name in names if (number := _rank_of(name)) is not None)
    return [Log(files.log(number), number, attempt) for number in ranks]


def _rank_of(name: str) -> int | None:
    number = name.removeprefix("rank-").removesuffix(".log")
    return int(number) if number.isdecimal() and name == f"rank-{number}.log" else None


def next_piece(log: Log, *, complete: bool) -> tuple[bytes, Log]:
    """The next lines as JSON, one a line, and the log read up to there; empty at its end.

    A last line without an end is told only if the log is `complete`.
    """
    raw = _read(log)
    end = raw.rfind(b"\n") + 1
    if not end and (len(raw) == PIECE or complete):
        end = len(raw)
    entries = b"".join(_entries(raw[:end], log))
    return entries, replace(log, offset=log.offset + end)


def _read(log: Log) -> bytes:
    """What comes next in the log; nothing where there is none. A pipe in its place holds no one."""
    try:
        descriptor = os.open(log.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.pread(descriptor, PIECE, log.offset)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _entries(raw: bytes, log: Log) -> Iterator[bytes]:
    behind = log.offset
    for line in _lines(raw):
        behind += len(line)
        document = {
            "rank": log.rank,
            "attempt": log.attempt,
            "offset": behind,
            "line": line.removesuffix(b"\n").decode(errors="replace"),
        }
        yield encoded(document) + b"\n"


def _lines(raw: bytes) -> Iterator[bytes]:
    """Lines by their line feeds alone: progress bars write carriage returns."""
    *whole, last = raw.split(b"\n")
    yield from (line + b"\n" for line in whole)
    if last:
        yield last
