"""How a gang is asked to save itself and leave: one small record in tmpfs that all ranks look at.

All ranks must stop after the same step, or those that go on wait in a collective for ever. So
the controller only asks; rank 0 answers with a step that lies ahead of everybody, and all look
after every step. While rank 0 has not begun its next step nobody can have finished it, since the
ranks of a step wait for each other. Standard library only (ranks use it).
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_RECORD = struct.Struct("<qq")  # whether it is asked, the step to stop after (0: not said yet)
_AHEAD = 2


def place(path: Path) -> None:
    """Put the record there, saying nothing, for ranks that are about to start. Raises OSError."""
    path.write_bytes(_RECORD.pack(0, 0))


def ask(path: Path) -> None:
    """Ask the ranks to save themselves and leave. Raises OSError."""
    with open(path, "r+b") as file:
        file.write(_RECORD.pack(1, 0)[:8])


class Listener:
    """A rank's end. Outside muster, or without a record, nothing is asked of it."""

    def __init__(self, path: Path | None, *, answers: bool) -> None:
        """`answers`: this is rank 0, which names the step."""
        self._answers = answers
        self._record = _mapped(path) if path is not None else None

    def stops_after(self, step: int) -> bool:
        """Whether all ranks are to stop after this step, which the caller has just finished."""
        if self._record is None:
            return False
        asked, last = _RECORD.unpack_from(self._record)
        if asked and not last and self._answers:
            last = step + _AHEAD
            struct.pack_into("<q", self._record, 8, last)
        return bool(last) and step >= last


def _mapped(path: Path) -> mmap.mmap | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mmap.mmap(descriptor, _RECORD.size)
    finally:
        os.close(descriptor)
