"""Everything that was asked of a node and what came of it, before anybody makes sense of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.ascend.main_table import Chip, MainTable, parse_table
from cluster.ascend.values import Measured, Unmeasured
from cluster.ascend.visible import physical_ids
from cluster.command import Outcome

Question = tuple[str, ...]
"""A tool's name and its arguments."""

MAIN: Question = ("npu-smi", "info")
MAPPING: Question = ("npu-smi", "info", "-m")
TOTAL: Question = ("npu-smi", "info", "-l")
MATRIX: Question = ("npu-smi", "info", "-t", "topo")


def health(card: int, chip: int) -> Question:
    """The question after the health of one chip."""
    return ("npu-smi", "info", "-t", "health", "-i", str(card), "-c", str(chip))


def super_pod(card: int, chip: int) -> Question:
    """The question after a chip's place in its super-pod, for A3."""
    return ("npu-smi", "info", "-t", "spod-info", "-i", str(card), "-c", str(chip))


def port(item: str, physical: int) -> Question:
    """The question after `ip`, `link` or `net_health` of a device's network port."""
    return ("hccn_tool", "-i", str(physical), f"-{item}", "-g")


def ping(physical: int, address: str) -> Question:
    """The question whether a device's network port reaches an address."""
    return ("hccn_tool", "-i", str(physical), "-ping", "-g", "address", address)


PORT_ITEMS = ("ip", "link", "net_health")


@dataclass(frozen=True)
class Transcript:
    """Outcomes by question; the numbers of /dev/davinciN; hccn.conf; NUMA nodes by bus id."""

    outcomes: Mapping[Question, Outcome] = field(default_factory=dict)
    files: frozenset[int] = frozenset()
    configuration: Measured[str] = ""
    numa: Mapping[str, Measured[int]] = field(default_factory=dict)

    def said(self, question: Question) -> Measured[str]:
        """What a tool printed, if it ended well."""
        outcome = self.outcomes.get(question)
        if outcome is None:
            return Unmeasured(f"{' '.join(question)}: not asked, `npu-smi info` did not answer")
        return Unmeasured(outcome.failure) if outcome.failure else outcome.text

    @property
    def table(self) -> Measured[MainTable]:
        text = self.said(MAIN)
        return text if isinstance(text, Unmeasured) else parse_table(text)


def has_super_pod(chip: Chip) -> bool:
    """Whether a chip can be in one: it is of a table with physical ids, which only A3 has."""
    return chip.physical is not None


def identify(chips: tuple[Chip, ...], files: frozenset[int]) -> tuple[Measured[int], ...]:
    """The physical id of each chip: its own column, else the card's id by the device files."""
    if all(chip.physical is not None for chip in chips):
        return tuple(chip.physical for chip in chips if chip.physical is not None)
    if any(chip.chip > 0 for chip in chips):
        why = Unmeasured("npu-smi shows cards of several chips without a column Phy-ID")
        return tuple(why for _ in chips)
    return tuple(physical_ids([chip.card for chip in chips], files))


def further(table: MainTable, files: frozenset[int]) -> tuple[Question, ...]:
    """What to ask once the main table is known, the ports of devices it does not list included."""
    listed = {one for one in identify(table.chips, files) if isinstance(one, int)}
    return (
        *(() if not table.chips else (MAPPING, TOTAL, MATRIX)),
        *(health(chip.card, chip.chip) for chip in table.chips),
        *(super_pod(chip.card, chip.chip) for chip in table.chips if has_super_pod(chip)),
        *(port(item, device) for device in sorted(listed | files) for item in PORT_ITEMS),
    )
