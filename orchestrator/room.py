"""Whether a disk has room for the next checkpoint: said before it fails, not after."""

from __future__ import annotations

import os
import time
from pathlib import Path

_MARGIN = 1.2
_EVERY = 300.0


class Room:
    """Looks at the free space below a run's checkpoints, and tells of a lack once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._looked_at = time.monotonic()
        self._told = False

    def due(self) -> bool:
        """Whether nobody has looked for a while."""
        return time.monotonic() - self._looked_at >= _EVERY

    def lack(self, size: int) -> str:
        """What is missing for another checkpoint of `size` bytes (0: not known).

        Empty if nothing is, or as long as that is known already.
        """
        self._looked_at = time.monotonic()
        try:
            system = os.statvfs(self._directory)
        except OSError:
            return ""  # who writes there will say why
        text = shortage(self._directory, system.f_bavail * system.f_frsize, size)
        told, self._told = self._told, bool(text)
        return "" if told else text


def shortage(directory: Path, free: int, size: int) -> str:
    """A sentence if `free` bytes are too few for the next checkpoint, else nothing."""
    needed = int(size * _MARGIN)
    if free >= needed:
        return ""
    return (
        f"the next checkpoint may not fit: {directory} has {free >> 20} MiB free, it needs about "
        f"{needed >> 20} MiB; make room, or set a smaller checkpoint.keep"
    )
