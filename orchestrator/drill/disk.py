"""A full disk on purpose: only where the file system is so small that it can be nobody else's.

The space is taken by a file without a name, so whatever ends its holder gives the space back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from orchestrator.drill.faults import FaultError

LARGEST = 1 << 30
SECONDS = 20.0
_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Filled:
    """A file system without a free byte, until this ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self._until = time.monotonic() + SECONDS

    def over(self) -> bool:
        return self._descriptor is None or time.monotonic() > self._until

    def end(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def fill(directory: Path) -> Filled:
    """Take every byte that is free where `directory` is. Raises FaultError, OSError."""
    status = os.statvfs(directory)
    size = status.f_blocks * status.f_frsize
    if size > LARGEST:
        raise FaultError(
            f"fill-disk: the file system of {directory} has {size >> 20} MiB and may be others' "
            f"too; one of at most {LARGEST >> 20} MiB is filled, such as a small tmpfs mounted "
            "for the run"
        )
    filled = Filled(_without_name(directory))
    try:
        _write_to_the_end(filled)
    except BaseException:
        filled.end()
        raise
    return filled


def _without_name(directory: Path) -> int:
    path = directory / f".drill-{os.getpid()}.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    path.unlink()
    return descriptor


def _write_to_the_end(filled: Filled) -> None:
    assert filled._descriptor is not None
    block = _BLOCK
    while block:
        with contextlib.suppress(OSError):
            while True:
                _write(filled._descriptor, block)
        block //= 2


def _write(descriptor: int, size: int) -> None:
    try:
        os.write(descriptor, b"\0" * size)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise FaultError(f"fill-disk: {error.strerror}") from error
