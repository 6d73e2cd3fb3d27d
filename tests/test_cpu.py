"""CPU budgets measured from fake machines built in a folder, and from this one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cpu import CpuBudget, NumaNode, format_cpu_list, measure, parse_cpu_list
from tests.topologies import CONTAINER_V1, CONTAINER_V2, KUNPENG_8P, X86_8GPU, Machine

V2_MOUNT = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
V1_CPU = "33 1 0:30 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_CPUSET = "34 1 0:31 {root} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"


def machine(
    root: Path, cgroup: str | None, mounts: list[str], files: Mapping[str, str], cpus: int = 8
) -> CpuBudget:
    """Measure a machine with `cpus` single-thread CPUs on one NUMA node."""
    tree = {
        **{
            f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i}\n"
            for i in range(cpus)
        },
        **{f"sys/devices/system/cpu/cpu{i}/topology/physical_package_id": "0" for i in range(cpus)},
        "sys/devices/system/node/node0/cpulist": f"0-{cpus - 1}\n",
        "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:  8000000 kB\n",
        "proc/self/status": "Mems_allowed_list:\t0\n",
        "proc/self/mountinfo": "".join(f"{line}\n" for line in mounts),
        **({} if cgroup is None else {"proc/self/cgroup": cgroup}),
        **files,
    }
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return measure(root=root, affinity=range(cpus))


def test_nothing_limits_a_machine_without_limits(tmp_path: Path) -> None:
    """The root group of v2 has no limit files: that is "not limited", not "not measured"."""
    budget = machine(tmp_path, "0::/\n", [V2_MOUNT], {"sys/fs/cgroup/cgroup.procs": ""})
    assert (budget.cpus, budget.quota, budget.unmeasured) == (tuple(range(8)), None, ())
    assert budget.usable_cores == 8.0
    assert budget.numa == (NumaNode(0, tuple(range(8)), socket=0, memory=True),)


def test_tightest_of_nested_v2_groups_wins(tmp_path: Path) -> None:
    """A quota of an ancestor counts when it is tighter than the group's own."""
    files = {
        "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/pod/box/cpu.max": "400000 100000\n",
        "sys/fs/cgroup/pod/box/leaf/cpu.max": "max 100000\n",
        "sys/fs/cgroup/pod/box/cpuset.cpus.effective": "2-5\n",
    }
    budget = machine(tmp_path, "0::/pod/box/leaf\n", [V2_MOUNT], files)
    assert budget.cpus == (2, 3, 4, 5)
    assert budget.quota == 1.5
    assert budget.usable_cores == 1.5
    assert any("sys/fs/cgroup/pod: quota of 1.5" in source for source in budget.sources)
    assert not budget.unmeasured


def test_v1_limits_are_read_from_their_own_hierarchies(tmp_path: Path) -> None:
    """cpuset and cpu lie in different v1 mounts; -1 and the root's absence limit nothing."""
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpuset/cpuset.cpus": "0-7\n",
        "sys/fs/cgroup/cpuset/b/cpuset.cpus": "1,6\n",
    }
    cgroup = "4:cpu,cpuacct:/a\n3:cpuset:/b\n2:memory:/elsewhere\n"
    mounts = [V1_CPU.format(root="/"), V1_CPUSET.format(root="/")]
    budget = machine(tmp_path, cgroup, mounts, files)
    assert (budget.cpus, budget.quota, budget.unmeasured) == ((1, 6), 0.5, ())


def test_hybrid_mounts_take_the_tightest_of_both(tmp_path: Path) -> None:
    """With v1 controllers and a v2 tree mounted, limits of both are cut together."""
    files = {
        "sys/fs/cgroup/cpuset/box/cpuset.cpus": "0-3\n",
        "sys/fs/cgroup/unified/box/cpu.max": "250000 100000\n",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "300000\n",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
    }
    mounts = [
        V1_CPU.format(root="/"),
        V1_CPUSET.format(root="/"),
        "41 1 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    ]
    budget = machine(tmp_path, "3:cpuset:/box\n1:cpu,cpuacct:/box\n0::/box\n", mounts, files)
    assert (budget.cpus, budget.quota) == ((0, 1, 2, 3), 2.5)


def test_container_mount_of_a_subtree_is_found(tmp_path: Path) -> None:
    """A mount whose root is the container's group maps to the mount point, and says so."""
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    budget = machine(
        tmp_path, "1:cpu,cpuacct:/docker/x\n", [V1_CPU.format(root="/docker/x")], files
    )
    assert budget.quota == 2.0
    assert any("above /docker/x" in text for text in budget.unmeasured)


@pytest.mark.parametrize("cgroup", [None, "0::/../other\n", "1:cpu,cpuacct:/docker/y\n"])
def test_a_group_that_cannot_be_seen_is_not_called_unlimited(
    tmp_path: Path, cgroup: str | None
) -> None:
    """No cgroup file, or a group outside every mount, is reported as unmeasured."""
    budget = machine(tmp_path, cgroup, [V2_MOUNT, V1_CPU.format(root="/docker/x")], {})
    assert budget.quota is None
    assert budget.unmeasured


@pytest.mark.parametrize("text", ["", "some words", "0 100000", "100000 0", "nan", "9" * 400])
def test_an_unreadable_quota_is_unmeasured(tmp_path: Path, text: str) -> None:
    """Garbage in cpu.max neither limits nor raises; it is named."""
    budget = machine(tmp_path, "0::/a\n", [V2_MOUNT], {"sys/fs/cgroup/a/cpu.max": text})
    assert budget.quota is None
    assert any("a/cpu.max" in item for item in budget.unmeasured)


def test_an_impossible_quota_of_v1_is_unmeasured(tmp_path: Path) -> None:
    """More microseconds than the kernel can count limit nothing, and are named."""
    mount = V1_CPU.format(root="/")
    file = "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"
    files = {file: "9" * 400, file.replace("quota", "period"): "100000"}
    budget = machine(tmp_path, "4:cpu,cpuacct:/\n", [mount], files)
    assert budget.quota is None
    assert any("cpu.cfs_quota_us" in item for item in budget.unmeasured)


def test_siblings_and_numa_are_cut_to_what_may_be_used(tmp_path: Path) -> None:
    """A masked SMT sibling leaves its core with one thread; empty NUMA nodes vanish."""
    files = {
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0,4\n",
        "sys/devices/system/cpu/cpu1/topology/thread_siblings_list": "1,5\n",
        "sys/devices/system/cpu/cpu4/topology/thread_siblings_list": "0,4\n",
        "sys/devices/system/node/node0/cpulist": "0,4\n",
        "sys/devices/system/node/node1/cpulist": "1,5\n",
        "sys/devices/system/node/node2/cpulist": "2-3,6-7\n",
        "sys/fs/cgroup/cpuset.cpus.effective": "0-1,4\n",
    }
    budget = machine(tmp_path, "0::/\n", [V2_MOUNT], files)
    assert budget.cores == ((0, 4), (1,))
    assert [(node.index, node.cpus) for node in budget.numa] == [(0, (0, 4)), (1, (1,))]


def test_missing_topology_is_said(tmp_path: Path) -> None:
    """Without sysfs every CPU is its own core on one node, and both gaps are named."""
    budget = measure(root=tmp_path, affinity=[3, 1])
    assert budget.cores == ((1,), (3,))
    assert budget.numa == (NumaNode(0, (1, 3)),)
    gaps = ("NUMA node of CPUs 1,3", "SMT siblings of CPUs 1,3", "socket of CPUs 1,3")
    assert {*gaps, "memory of NUMA node 0"} <= set(budget.unmeasured)


def test_kunpeng_has_sockets_nodes_and_distances(tmp_path: Path) -> None:
    """Two sockets of four nodes of 24 cores, each core for itself, neighbours near."""
    budget = KUNPENG_8P.measured(tmp_path)
    assert budget.unmeasured == ()
    assert [node.socket for node in budget.numa] == [0] * 4 + [1] * 4
    assert budget.numa[6].cpus == tuple(range(144, 168))
    assert all(node.memory for node in budget.numa)
    assert dict(budget.numa[6].distances) == {n: 32 for n in range(4)} | {
        4: 12,
        5: 12,
        6: 10,
        7: 12,
    }
    assert len(budget.cores) == 192


def test_x86_threads_are_folded_onto_cores(tmp_path: Path) -> None:
    """192 CPUs are 96 cores, siblings n and n + 96 on one socket."""
    budget = X86_8GPU.measured(tmp_path)
    assert len(budget.cpus) == 192 and len(budget.cores) == 96
    assert budget.cores[50] == (50, 146)
    assert [node.socket for node in budget.numa] == [0, 1]


@pytest.mark.parametrize("machine", [CONTAINER_V1, CONTAINER_V2], ids=["v1", "v2"])
def test_a_container_sees_its_cpuset_and_quota(tmp_path: Path, machine: Machine) -> None:
    """Six cores without their masked siblings, on the one node that holds them."""
    budget = machine.measured(tmp_path)
    assert (budget.cpus, budget.quota, budget.unmeasured) == (tuple(range(8, 14)), 4.5, ())
    assert budget.cores == tuple((cpu,) for cpu in range(8, 14))
    assert [node.index for node in budget.numa] == [0]


def test_a_node_without_memory_is_not_one_whose_memory_is_unknown(tmp_path: Path) -> None:
    """Nothing installed or not allowed is False; a file that does not say so is None, and named."""
    files = {
        "proc/self/status": "Mems_allowed_list:\t0,1,3\n",
        "sys/devices/system/node/node3/meminfo": "Node 3 HugePages_Total: 0\n",
    }
    budget = Machine(4, 1, 2, memoryless=(1,), files=files).measured(tmp_path)
    assert [node.memory for node in budget.numa] == [True, False, False, None]
    assert "memory of NUMA node 3" in budget.unmeasured


@pytest.mark.parametrize("package", ["-1", "", "?"])
def test_a_socket_that_firmware_does_not_tell_is_unknown(tmp_path: Path, package: str) -> None:
    """-1 and rubbish are no socket, and the CPUs are named."""
    files = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id": package for cpu in (2, 3)
    }
    budget = Machine(2, 1, 2, files=files).measured(tmp_path)
    assert [node.socket for node in budget.numa] == [0, None]
    assert "socket of CPUs 2-3" in budget.unmeasured


def test_this_process_gets_no_more_than_its_affinity() -> None:
    """On the machine at hand the result is a non-empty part of the affinity mask."""
    budget = measure()
    assert budget.cpus
    assert set(budget.cpus) <= os.sched_getaffinity(0)
    assert sorted(c for core in budget.cores for c in core) == list(budget.cpus)
    assert 0 < budget.usable_cores <= len(budget.cpus)


@given(st.sets(st.integers(0, 300)))
def test_cpu_lists_survive_the_round_trip(cpus: set[int]) -> None:
    """Formatting and parsing a CPU list gives the same CPUs."""
    assert set(parse_cpu_list(format_cpu_list(cpus))) == cpus


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-2", "0-99999999", "1;2"])
def test_a_bad_cpu_list_is_refused(text: str) -> None:
    """What the kernel would never print raises ValueError."""
    with pytest.raises(ValueError):
        parse_cpu_list(text)
