"""How a gang is asked to save itself and leave: one small record in tmpfs that all ranks look at.

All ranks must stop after the same step, or those that go on wait in a collective for ever. So
the controller only asks; rank 0 answers with a step that lies ahead of everybody, and all look
after every step. While rank 0 has not begun its next step nobody can have finished it, since the
ranks of a step wait for each other.

SIGTERM from outside (a preemption, maintenance) asks in the same way, whichever rank gets it: a
rank that can be asked does not die of it. Ours does end it: the controller dismisses the gang
first. Standard library only (ranks use it).
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import threading
from pathlib import Path
from types import FrameType

_RECORD = struct.Struct("<qq")  # bits of what is asked, the step to stop after (0: not said yet)
_ASKED = 1
_DISMISSED = 2
_AHEAD = 2


def place(path: Path) -> None:
    """Put the record there, saying nothing, for ranks that are about to start. Raises OSError."""
    path.write_bytes(_RECORD.pack(0, 0))


def ask(path: Path) -> None:
    """Ask the ranks to save themselves and leave. Raises OSError."""
    _say(path, _ASKED)


def dismiss(path: Path) -> None:
    """Let SIGTERM end the ranks at once, whatever they were asked before. Raises OSError."""
    _say(path, _DISMISSED | (_ASKED if asked(path) else 0))


def asked(path: Path) -> bool:
    """Whether the ranks were asked to save themselves, by us or by a SIGTERM from outside."""
    try:
        return bool(_RECORD.unpack(path.read_bytes())[0] & _ASKED)
    except (OSError, struct.error):
        return False


def _say(path: Path, word: int) -> None:
    with open(path, "r+b") as file:
        file.write(_RECORD.pack(word, 0)[:8])


class Listener:
    """A rank's end. Outside muster, or without a record, nothing is asked of it."""

    def __init__(self, path: Path | None, *, answers: bool) -> None:
        """`answers`: this is rank 0, which names the step."""
        self._answers = answers
        self._record = mapped(path, _RECORD.size) if path is not None else None
        self._told = False

    def stops_after(self, step: int) -> bool:
        """Whether all ranks are to stop after this step, which the caller has just finished."""
        if self._record is None:
            return False
        word, last = _RECORD.unpack_from(self._record)
        if word & _ASKED and not last and self._answers:
            last = step + _AHEAD
            struct.pack_into("<q", self._record, 8, last)
        return bool(last) and step >= last

    def heed_sigterm(self) -> None:
        """Take SIGTERM for a request, unless the script has its own way with it."""
        main = threading.current_thread() is threading.main_thread()
        if self._record is None or not main:
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._on_sigterm)
            # Nobody below Python is to find a call of its own interrupted.
            signal.siginterrupt(signal.SIGTERM, False)

    def _on_sigterm(self, number: int, _: FrameType | None) -> None:
        assert self._record is not None
        word, _last = _RECORD.unpack_from(self._record)
        if word & _DISMISSED or self._told:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._told = True  # one for each rank, as of a whole node, is still one request
        struct.pack_into("<q", self._record, 0, word | _ASKED)


def mapped(path: Path, size: int) -> mmap.mmap | None:
    """A small record that lies there already, shared with others; None without one."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mmap.mmap(descriptor, size)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
