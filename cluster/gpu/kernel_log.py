"""Xid errors in the kernel's log: NVML tells of one only to a listener, as it happens."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.kernel_messages import records
from cluster.measured import Measured, Unmeasured

_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})(?:\.[0-7])?\): "
    r"([0-9]{1,4})\b"
)


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
        return parse_xids("\n".join(records(path, [b"NVRM: Xid"])))
    except OSError as error:
        return Unmeasured(f"{path}: {error.strerror}")
