"""`npu-smi info -t topo`: how devices are joined, and the rings that follow from it.

On the 910A a server has two rings of four devices, joined inside by HCCS; the 910B is a full
mesh, one ring of all. Pure. The matrix of a 910A across its rings was not seen by us.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.ascend.values import Measured, Unmeasured

_LABEL = re.compile(r"(?:NPU|Phy-ID)(\d{1,6})", re.ASCII)
_WORDS = frozenset({"X", "SYS", "PHB", "HCCS", "PXB", "PIX", "SIO", "HCCS_SW", "UB", "NA"})
_CLOSE = frozenset({"HCCS", "HCCS_SW", "SIO"})
_DOCUMENTED_RING = 4

FIRST_GENERATION = frozenset({"910", "910A", "910B", "910ProA", "910ProB", "910PremiumA"})
"""What npu-smi calls the chips of 910A servers, by CANN's lists of processors.

The chips of the generation after have a number behind the letter, as in 910B3.
"""


@dataclass(frozen=True)
class Topology:
    """`links[a, b]` is the matrix's word for two devices, by the ids of its labels."""

    devices: tuple[int, ...] = ()
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def parse_topology(text: str) -> Topology:
    """Read the matrix. Columns of other things (network cards) and CPU affinities are left out."""
    columns: list[int | None] = []
    links: dict[tuple[int, int], str] = {}
    problems: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["Legend:"]:
            break
        if not columns:
            columns = _header(words)
            continue
        row = _LABEL.fullmatch(words[0]) if words else None
        if row is None:
            continue
        cells = words[1 : 1 + len(columns)]
        if len(cells) < len(columns) or not _WORDS.issuperset(cells):
            problems.append(f"npu-smi info -t topo: not a row of the matrix: {line.strip()[:60]!r}")
            continue
        for column, word in zip(columns, cells, strict=True):
            if column is not None:
                links[int(row[1]), column] = word
    devices = tuple(column for column in columns if column is not None)
    return Topology(devices, links, tuple(problems[:50]))


def _header(words: Sequence[str]) -> list[int | None]:
    """The columns by id, None where a column is no device; empty if this is no header."""
    if not words or not _LABEL.fullmatch(words[0]):
        return []
    named = words[: words.index("CPU")] if "CPU" in words else words
    matches = [_LABEL.fullmatch(word) for word in named]
    return [int(match[1]) if match else None for match in matches]


def rings(topology: Topology) -> dict[int, int]:
    """The ring of each device that has a row, numbered from 0 by their lowest ids.

    Two devices are in one ring if both rows say that HCCS joins them, directly or over others.
    """
    found: dict[int, int] = {}
    for first in sorted({a for a, _ in topology.links}):
        if first not in found:
            found |= dict.fromkeys(_reach(topology, first), len(set(found.values())))
    return found


def _reach(topology: Topology, first: int) -> set[int]:
    reached: set[int] = set()
    waiting = [first]
    while waiting:
        at = waiting.pop()
        if at not in reached:
            reached.add(at)
            waiting += [b for a, b in topology.links if a == at and _joined(topology, a, b)]
    return reached


def _joined(topology: Topology, a: int, b: int) -> bool:
    return {topology.links[a, b], topology.links.get((b, a), "NA")} <= _CLOSE


def documented_ring(model: str, physical: Measured[int]) -> Measured[int]:
    """The ring by the model's documentation, for when the matrix could not be read."""
    if isinstance(physical, Unmeasured):
        return physical
    if model not in FIRST_GENERATION:
        return Unmeasured(f"npu-smi -t topo does not tell, and nothing is documented for {model}")
    return physical // _DOCUMENTED_RING
