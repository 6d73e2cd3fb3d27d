"""The directory of a rehearsal node: every path in it, and how one is recognised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VARIABLE = "MUSTER_SIMULATED_NODE"
"""Names the directory of the rehearsal node that stands in for this machine's devices."""


@dataclass(frozen=True)
class NodeDirectory:
    """Tools in `bin`, and below `root` what would lie below / on a real node."""

    root: Path

    @property
    def file(self) -> Path:
        """The node: model, devices, faults. The tools read it at every call."""
        return self.root / "node.json"

    @property
    def npu_smi(self) -> Path:
        return self.root / "bin" / "npu-smi"

    @property
    def hccn_tool(self) -> Path:
        return self.root / "bin" / "hccn_tool"

    @property
    def hccn_conf(self) -> Path:
        return self.root / "etc" / "hccn.conf"

    def numa_node(self, bus_id: str) -> Path:
        return self.root / "sys" / "bus" / "pci" / "devices" / bus_id.lower() / "numa_node"

    def device_file(self, physical: int) -> Path:
        return self.root / "dev" / f"davinci{physical}"

    def is_node(self) -> bool:
        return self.file.is_file()
