"""Lengths of time and amounts of memory as people write them."""

from __future__ import annotations

import re
from itertools import pairwise

LONGEST = 10 * 365 * 86_400.0
"""The longest time that a job file may name, in seconds: ten years."""

_SECONDS = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_DURATION_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION_PART = re.compile(rf"({_SECONDS.pattern})(ms|[dhms])", re.ASCII)
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+", re.ASCII)
_SIZE_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_SIZE = re.compile(r"(\d{1,18})([KMGT]i)?", re.ASCII)


def parse_duration(text: str) -> float | None:
    """Seconds of `90`, `10m`, `1h30m` or `500ms` (units d h m s ms, each once, falling)."""
    if _SECONDS.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    parts = _DURATION_PART.findall(text)
    sizes = [_DURATION_UNITS[unit] for _, unit in parts]
    if any(later >= earlier for earlier, later in pairwise(sizes)):
        return None
    # As many decimals as a plain number may have, so that what is stored can be read again.
    return round(
        sum(float(amount) * size for (amount, _), size in zip(parts, sizes, strict=True)), 9
    )


def parse_size(text: str) -> int | None:
    """Bytes of `1024`, `512Mi` or `4Gi` (units Ki Mi Gi Ti)."""
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _SIZE_UNITS[match[2] or ""] if match else None
