"""Machines as files: the parts of /proc and /sys from which CPUs are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.cpu import CpuBudget, measure
from cluster.kernel_text import format_cpu_list

V1_MOUNTS = (
    "33 1 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "34 1 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)
V2_MOUNT = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@dataclass(frozen=True)
class Machine:
    """Sockets of NUMA nodes of cores of threads, numbered as Linux does: second threads last."""

    sockets: int
    nodes_a_socket: int
    cores_a_node: int
    threads: int = 1
    memoryless: tuple[int, ...] = ()
    near: tuple[int, ...] = ()
    """The NUMA node of each device."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further files, or others."""

    @property
    def nodes(self) -> int:
        """NUMA nodes in all."""
        return self.sockets * self.nodes_a_socket

    @property
    def cores(self) -> int:
        """Physical cores in all."""
        return self.nodes * self.cores_a_node

    def measured(self, root: Path) -> CpuBudget:
        """Build the machine below `root` and measure it; the affinity mask allows all of it."""
        for name, text in {**self._tree(), **self.files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return measure(root=root, affinity=range(self.cores * self.threads))

    def _tree(self) -> dict[str, str]:
        tree = {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            "proc/self/status": f"Name:\tx\nMems_allowed_list:\t0-{self.nodes - 1}\n",
        }
        for core in range(self.cores):
            threads = [core + self.cores * thread for thread in range(self.threads)]
            for cpu in threads:
                folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
                socket = core // (self.cores_a_node * self.nodes_a_socket)
                tree[f"{folder}/thread_siblings_list"] = f"{format_cpu_list(threads)}\n"
                tree[f"{folder}/physical_package_id"] = f"{socket}\n"
        for node in range(self.nodes):
            tree |= self._node(node)
        return tree

    def _node(self, node: int) -> dict[str, str]:
        first = node * self.cores_a_node
        cpus = [
            core + self.cores * thread
            for core in range(first, first + self.cores_a_node)
            for thread in range(self.threads)
        ]
        size = 0 if node in self.memoryless else 100_000_000
        folder = f"sys/devices/system/node/node{node}"
        # Distances are made up; only their order matters.
        far = (
            10
            if n == node
            else 12
            if n // self.nodes_a_socket == node // self.nodes_a_socket
            else 32
            for n in range(self.nodes)
        )
        return {
            f"{folder}/cpulist": f"{format_cpu_list(cpus)}\n",
            f"{folder}/meminfo": f"Node {node} MemTotal:       {size} kB\n",
            f"{folder}/distance": " ".join(map(str, far)) + "\n",
        }


KUNPENG_8P = Machine(2, 4, 24, near=(6, 6, 4, 4, 0, 0, 2, 2))
"""Two-socket Kunpeng 920, 192 cores; 8 NPUs on the even nodes, in the order of ASCEND.md 2.3."""

X86_8GPU = Machine(2, 1, 48, threads=2, near=(0, 0, 0, 0, 1, 1, 1, 1))
"""x86 with SMT: 2 x 48 cores, 192 threads, siblings n and n + 96, four GPUs a socket."""

LAPTOP = Machine(1, 1, 2)

_BOX = "8-13"
CONTAINER_V2 = Machine(
    2, 1, 48, threads=2,
    files={
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/box/cpuset.cpus.effective": f"{_BOX}\n",
        "sys/fs/cgroup/box/cpu.max": "450000 100000\n",
    },
)  # fmt: skip
CONTAINER_V1 = Machine(
    2, 1, 48, threads=2,
    files={
        "proc/self/cgroup": "4:cpu,cpuacct:/box\n3:cpuset:/box\n",
        "proc/self/mountinfo": V1_MOUNTS,
        "sys/fs/cgroup/cpuset/cpuset.cpus": "0-191\n",
        "sys/fs/cgroup/cpuset/box/cpuset.cpus": f"{_BOX}\n",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "450000\n",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
    },
)  # fmt: skip
"""Six cores of that machine, and a quota of four and a half."""
