"""The kernel's log as far as this user may read it: bounded, and never waited for.

Source: the kernel's documentation, ABI/testing/dev-kmsg: one record a read, which begins with
`priority,sequence,microseconds,flags;`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

KERNEL_LOG = Path("/dev/kmsg")

_MAX_RECORD = 1 << 14
_MAX_RECORDS = 200_000


def records(path: Path, words: Sequence[bytes]) -> list[str]:
    """The records that hold one of `words`, as far back as the kernel keeps its log.

    Raises OSError where it cannot be read.
    """
    told: list[str] = []
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(descriptor, _MAX_RECORD)
            except BlockingIOError:
                break
            except BrokenPipeError:  # overwritten before it was read; the next one is there
                continue
            if not record:
                break
            if any(word in record for word in words):
                told.append(record.decode("utf-8", "replace"))
    finally:
        os.close(descriptor)
    return told
