"""The picture of CPUs in `muster plan`, and the facts of it in `--json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cluster.affinity import Bind, bind
from cluster.allocate import Assignment
from cluster.cpu import CpuBudget, NumaNode, format_cpu_list, measure
from cluster.device import Device, DeviceKind
from orchestrator.cli import main
from orchestrator.cli.cpu_picture import picture
from orchestrator.cpu_facts import Facts, facts
from tests.topologies import CONTAINER_V2, KUNPENG_8P, LAPTOP, X86_8GPU, Machine

JOB = Path(__file__).parent.parent / "jobs" / "rehearsal_8p_cpu.yaml"


def told(
    cpus: CpuBudget,
    ranks: int,
    mode: Bind = Bind.NUMA,
    *,
    kind: DeviceKind = DeviceKind.CPU,
    near: Sequence[int | None] = (),
    cpus_per_rank: int | None = None,
    first: int = 0,
) -> Facts:
    """The facts of a node whose ranks are bound as the allocator binds them."""
    near = [*near, *[None] * (ranks - len(near))]
    got = bind(
        cpus.cpus, ranks, cpus_per_rank=cpus_per_rank, numa=cpus.numa, siblings=cpus.cores,
        mode=mode, quota=cpus.quota, near=near,
    )  # fmt: skip
    placed = [
        Assignment(first + local, "node-a", Device(kind, "node-a", local, numa=near[local]), local,
                   got.sets[local], got.threads, got.memory[local])
        for local in range(ranks)
    ]  # fmt: skip
    return facts(cpus, placed, mode, cpus_per_rank)


def test_kunpeng_fits_a_screen(tmp_path: Path) -> None:
    """A line a NUMA node: its socket, NPUs, cores, and whose each core is."""
    cpus = KUNPENG_8P.measured(tmp_path)
    drawn = picture("node-a", told(cpus, 8, kind=DeviceKind.ASCEND, near=KUNPENG_8P.near), 80)
    assert drawn == [
        "node-a: 2 sockets, 8 NUMA nodes, 192 cores; bind: numa",
        "  socket 0 · NUMA 0 · NPU 4-5 │ cores 0-23     i 444444444444 55555555555",
        "  socket 0 · NUMA 1 │ cores 24-47              444444444444 555555555555",
        "  socket 0 · NUMA 2 · NPU 6-7 │ cores 48-71    666666666666 777777777777",
        "  socket 0 · NUMA 3 │ cores 72-95              666666666666 777777777777",
        "  socket 1 · NUMA 4 · NPU 2-3 │ cores 96-119   i 222222222222 33333333333",
        "  socket 1 · NUMA 5 │ cores 120-143            222222222222 333333333333",
        "  socket 1 · NUMA 6 · NPU 0-1 │ cores 144-167  000000000000 111111111111",
        "  socket 1 · NUMA 7 │ cores 168-191            000000000000 111111111111",
        "  a number: the rank; i: left for interrupts",
        "  memory: ranks 0-1 from NUMA 6-7; ranks 2-3 from NUMA 4-5; ranks 4-5 from NUMA",
        "    0-1; ranks 6-7 from NUMA 2-3",
    ]


def test_threads_are_folded_onto_cores_and_rows_wrap(tmp_path: Path) -> None:
    """48 cores of two threads are 48 signs, on as many lines as the width asks for."""
    cpus = X86_8GPU.measured(tmp_path)
    drawn = picture("node-a", told(cpus, 8, kind=DeviceKind.GPU, near=X86_8GPU.near), 80)
    assert drawn[1:4] == [
        "  socket 0 · NUMA 0 · GPU 0-3 │ cores 0-47+96-143    i 000000000000 111111111111",
        "                                                     222222222222 33333333333",
        "  socket 1 · NUMA 1 · GPU 4-7 │ cores 48-95+144-191  i 444444444444 555555555555",
    ]


def test_shared_cores_have_letters(tmp_path: Path) -> None:
    """Eight ranks on two cores: who shares which stands below."""
    assert picture("local", told(LAPTOP.measured(tmp_path), 8), 80) == [
        "local: 1 socket, 1 NUMA node, 2 cores; bind: numa",
        "  socket 0 · NUMA 0 │ cores 0-1  A B",
        "  A: ranks 0,2,4,6; B: ranks 1,3,5,7",
    ]


def test_blocks_show_what_they_do_to_siblings(tmp_path: Path) -> None:
    """By number two ranks get the two threads of a core: the letters tell."""
    drawn = picture("node-a", told(X86_8GPU.measured(tmp_path), 8, Bind.BLOCKS), 120)
    assert drawn[-1] == "  A: ranks 0,4; B: ranks 1,5; C: ranks 2,6; D: ranks 3,7"


def test_numbers_of_several_digits_stay_apart(tmp_path: Path) -> None:
    """Ranks of another node than the first have room for their numbers."""
    cpus = LAPTOP.measured(tmp_path)
    drawn = picture("node-b", told(cpus, 2, first=8 * 13), 80)
    assert drawn[1] == "  socket 0 · NUMA 0 │ cores 0-1  104 105"


def test_what_is_free_or_unknown_is_drawn_so(tmp_path: Path) -> None:
    """A dot for a core that nobody has, a question mark for a socket, words for no memory."""
    nodes = (NumaNode(0, (0, 1), memory=True), NumaNode(1, (2, 3), memory=False))
    found = told(CpuBudget((0, 1, 2, 3), numa=nodes), 1, cpus_per_rank=3)
    assert found["free"] == [3] and found["sockets"] is None
    assert picture("x", found, 80) == [
        "x: sockets unknown, 2 NUMA nodes, 4 cores; bind: numa",
        "  socket ? · NUMA 0 │ cores 0-1              00",
        "  socket ? · NUMA 1 (no memory) │ cores 2-3  0 ·",
        "  a number: the rank; ·: free",
    ]


def test_a_mask_with_holes_does_not_widen_the_picture(tmp_path: Path) -> None:
    """Where every second thread is masked, how many of which CPUs stands before the row."""
    X86_8GPU.measured(tmp_path)
    cpus = measure(root=tmp_path, affinity=[*range(96), *range(96, 192, 2)])
    drawn = picture("node-a", told(cpus, 8, kind=DeviceKind.GPU, near=X86_8GPU.near), 80)
    assert drawn[1].startswith("  socket 0 · NUMA 0 · GPU 0-3 │ cores 0-47+24 of 96-142    i 0000")
    assert max(map(len, drawn)) <= 80


def test_one_rank_is_one(tmp_path: Path) -> None:
    """A rank whose memory is bound alone is not called ranks."""
    cpus = Machine(2, 2, 4, memoryless=(1, 3)).measured(tmp_path)
    drawn = picture("node-a", told(cpus, 4), 80)
    assert drawn[-1] == "  memory: rank 0 from NUMA 0; rank 2 from NUMA 2"


def test_facts_are_plain_values(tmp_path: Path) -> None:
    """Sockets, NUMA nodes, cores with their ranks, what is reserved, free and not measured."""
    found = told(CONTAINER_V2.measured(tmp_path), 2)
    assert json.loads(json.dumps(found)) == found
    assert (found["bind"], found["quota"], found["sockets"]) == ("numa", 4.5, 1)
    (node,) = found["numa"]
    assert (node["node"], node["socket"], node["memory"]) == (0, 0, True)
    assert node["cores"][0] == {"cpus": [8], "ranks": [0]}
    assert [found[name] for name in ("memory", "reserved", "free", "unmeasured")] == [[]] * 4


@given(st.integers(1, 40), st.integers(1, 24), st.sampled_from(Bind), st.integers(20, 200))
def test_every_core_has_a_sign(cores: int, ranks: int, mode: Bind, width: int) -> None:
    """However narrow the terminal, rows together have one sign a core, within the width."""
    every = tuple(range(cores))
    found = told(CpuBudget(every, numa=(NumaNode(0, every),)), ranks, mode)
    lines = picture("x", found, width)
    head = f"  socket ? · NUMA 0 │ cores {format_cpu_list(every)}  "
    assert lines[1].startswith(head)
    rows = [lines[1], *takewhile(lambda line: line.startswith(" " * len(head)), lines[2:])]
    assert all(len(row) <= max(width, len(head) + 16) for row in rows)
    signs = [row[len(head) :].split() for row in rows]
    held = [core["ranks"] for core in found["numa"][0]["cores"]]
    apart = any(len(numbers) == 1 and numbers[0] > 9 for numbers in held)
    assert sum(len(words) if apart else len("".join(words)) for words in signs) == cores


@pytest.mark.parametrize("mode", ["numa", "blocks", "none"])
def test_the_command_draws_and_tells(mode: str) -> None:
    """`muster plan` ends its table with the picture; `--json` has the same facts by node."""
    runner = CliRunner()
    bound = ("--set", f"launch.bind={mode}")
    shown = runner.invoke(main, ["plan", str(JOB), *bound])
    assert shown.exit_code == 0, shown.output
    assert f"; bind: {mode}" in shown.stdout and "NUMA 0" in shown.stdout
    document = json.loads(runner.invoke(main, ["plan", str(JOB), *bound, "--json"]).stdout)
    (node,) = document["nodes"]
    assert node["cpus"]["bind"] == mode
    ranks = {rank for numa in node["cpus"]["numa"] for c in numa["cores"] for rank in c["ranks"]}
    assert ranks == set(range(8))
