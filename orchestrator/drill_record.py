"""How a drill reaches inside a rank: a small record in tmpfs that `Rank.step` looks at.

Two of the faults that a rank may have cannot be done to it from outside: a loss that is not a
number, and memory that runs out in the middle of a step. Standard library only (ranks use it).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from orchestrator.stop_request import mapped

_RECORD = struct.Struct("<qq")  # whether losses are NaN, bytes to take (-1: none can be had)
_BLOCK = 1 << 20

NOTHING_TO_TAKE = -1
"""Stands for an amount of memory: the rank behaves as if it had got none."""


def place(path: Path) -> None:
    """Put the record there, asking nothing, for a rank that is about to start. Raises OSError."""
    path.write_bytes(_RECORD.pack(0, 0))


def spoil_losses(path: Path) -> None:
    """From its next step on the rank reports NaN. Raises OSError."""
    _change(path, 0, 1)


def exhaust(path: Path, size: int) -> None:
    """At its next step the rank takes `size` bytes, which it must not get. Raises OSError."""
    _change(path, 8, size)


def _change(path: Path, offset: int, value: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<q", value))


class Ear:
    """A rank's end. Without a record nothing is ever asked of it."""

    def __init__(self, path: Path | None) -> None:
        self._record = mapped(path, _RECORD.size) if path is not None else None

    def heard(self, loss: float | None) -> float | None:
        """The loss to report. Raises MemoryError where a drill says so."""
        if self._record is None:
            return loss
        spoilt, size = _RECORD.unpack_from(self._record)
        if size:
            _take(size)
        return math.nan if spoilt else loss


def _take(size: int) -> None:
    """Touch memory up to `size` bytes; whoever comes to the end of it has been refused none."""
    held = [b"\1" * _BLOCK for _ in range(size // _BLOCK)] if size > 0 else []
    raise MemoryError(
        f"drill oom-rank: no memory left (simulated after {len(held)} MiB: the kernel did not kill)"
    )
