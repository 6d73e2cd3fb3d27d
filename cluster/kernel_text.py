"""Small files that the kernel writes, and its lists of numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from cluster.measured import Measured, Unmeasured

_MAX_CPUS = 1 << 16
_MAX_FILE = 1 << 18
_T = TypeVar("_T")


def read(path: Path, parse: Callable[[str], _T], unmeasured: list[str]) -> _T | None:
    """The parsed file; None when it does not exist (no limit) or cannot be read (noted)."""
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ZeroDivisionError) as error:
        unmeasured.append(f"{path}: {error}")
        return None


def content(path: Path) -> Measured[str]:
    """The file's text, at most a quarter of a million characters of it, or why there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        return Unmeasured(f"{path}: {error.strerror}")


def numa_node_of(root: Path, bus_id: str) -> Measured[int]:
    """The NUMA node of a PCIe device; the kernel names devices in lower case, and -1 is unknown."""
    text = content(root / "sys/bus/pci/devices" / bus_id.lower() / "numa_node")
    if isinstance(text, Unmeasured):
        return text
    if re.fullmatch(r"[0-9]{1,4}", text.strip()):
        return int(text)
    return Unmeasured(f"the kernel names no NUMA node for {bus_id}: {text.strip()[:20]!r}")


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs of a kernel list such as `0-3,8`. Raises ValueError on anything else."""
    found: set[int] = set()
    for part in text.strip().split(","):
        if not part.strip():
            continue
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ValueError(f"not a CPU list: {text.strip()!r}")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last >= _MAX_CPUS:
            raise ValueError(f"not a CPU range: {part.strip()!r}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The kernel's short form of `cpus`, e.g. `0-3,8`."""
    parts: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
