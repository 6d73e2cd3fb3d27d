"""Xid errors in the kernel's log: NVML tells of one only to a listener, as it happens."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cluster.measured import Measured, Unmeasured

_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})(?:\.[0-7])?\): "
    r"([0-9]{1,4})\b"
)
_MAX_RECORD = 1 << 14
_MAX_RECORDS = 200_000


def parse_xids(text: str) -> dict[str, tuple[int, ...]]:
    """Codes by PCI address (its function being 0), each once, in the order of the log."""
    found: dict[str, dict[int, None]] = {}
    for match in _XID.finditer(text):
        address = f"{int(match[1], 16):04x}:{match[2].lower()}.0"
        found.setdefault(address, {})[int(match[3])] = None
    return {address: tuple(codes) for address, codes in found.items()}


def read_xids(root: Path) -> Measured[dict[str, tuple[int, ...]]]:
    """Xid errors since the machine's start, as far back as the kernel keeps its log."""
    path = root / "dev/kmsg"
    try:
        return parse_xids(_records(path))
    except OSError as error:
        return Unmeasured(f"{path}: {error.strerror}")


def _records(path: Path) -> str:
    """The lines about Xid errors. A read gives one record, and never waits for the next."""
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
            if b"NVRM: Xid" in record:
                told.append(record.decode("utf-8", "replace"))
    finally:
        os.close(descriptor)
    return "\n".join(told)
