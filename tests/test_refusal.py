"""What a refusal says: why not now, and what would have to change, in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from cluster.allocate import Refusal, Request, allocate
from cluster.device import DeviceKind, Inventory, Node
from tests.fabrics import clusters, mesh, node, pairs, requests, rings, withheld

EIGHT = mesh([0] * 8)
ASCEND = DeviceKind.ASCEND


def why(request: Request, *nodes: Node) -> str:
    """The reason, where there must be one."""
    answer = allocate(Inventory(nodes), request)
    assert isinstance(answer, Refusal), answer
    return answer.reason


def test_a_barred_device_is_named_with_its_reason() -> None:
    """What the reader must wait for or change stands at the end."""
    barred = withheld("node-b", [3], why="barred until 14:00 (ECC twice)")
    assert why(Request(ASCEND, 8, withheld=barred), node("node-b", *EIGHT)) == (
        "needs 8 free NPUs in one node; node-b has 7: NPU 3 barred until 14:00 (ECC twice)"
    )


def test_devices_of_one_reason_are_named_together() -> None:
    """Every reason once; what a node has at all is told where that alone is too little."""
    gone = withheld("a", [0, 1, 2], why="lost") | withheld("a", [5], why="in use by python (pid 7)")
    assert why(Request(ASCEND, 8, withheld=gone), node("a", *EIGHT[:6])) == (
        "needs 8 free NPUs; the one node can give 2; "
        "a has 2 of 6: NPU 0-2 lost, NPU 5 in use by python (pid 7)"
    )


def test_rings_are_counted() -> None:
    """Four are free, and not four of one ring."""
    busy = withheld("node-a", [1, 2, 5, 6])
    assert why(Request(ASCEND, 4, withheld=busy), node("node-a", *rings())) == (
        "needs 4 free NPUs in one ring; node-a has 4 free but 2 in each ring: NPU 1-2,5-6 in use"
    )
    busy = withheld("node-a", [1, 2, 5])
    assert "5 free but 2 in ring 0, 3 in ring 1: " in why(
        Request(ASCEND, 4, withheld=busy), node("node-a", *rings())
    )


def test_many_nodes_are_counted_and_the_nearest_named() -> None:
    """Three by how little they lack, then how many more and how far off they are."""
    reasons = {
        key: text
        for number in range(7)
        for key, text in withheld(f"n{number}", range(number), why="lost").items()
    }
    nodes = [node(f"n{number}", *EIGHT) for number in range(7)]
    assert why(Request(ASCEND, 16, ranks_per_node=8, withheld=reasons), *nodes) == (
        "needs 8 free NPUs on each of 2 nodes for 16 ranks; 1 of 7 has them; "
        "n1 has 7: NPU 0 lost; n2 has 6: NPU 0-1 lost; n3 has 5: NPU 0-2 lost; "
        "3 more nodes with at most 4 will not do either"
    )


def test_what_all_nodes_give_together_is_told() -> None:
    """A job that may be spread anyhow lacks devices in all; who withholds most comes first."""
    lost = withheld("a", [0], why="lost") | withheld("b", [2, 3], why="in use")
    request = Request(ASCEND, 24, withheld=lost)
    assert why(request, *(node(name, *EIGHT) for name in "abc")) == (
        "needs 24 free NPUs; all nodes together can give 21; "
        "b has 6 of 8: NPU 2-3 in use; a has 7 of 8: NPU 0 lost"
    )


@pytest.mark.parametrize(
    ("request_", "nodes", "reason"),
    [
        (
            Request(ASCEND, 16, ranks_per_node=8, cpus_per_rank=2),
            [node("a", *EIGHT, cpus=15), node("b", *EIGHT, cpus=16)],
            "needs 8 free NPUs on each of 2 nodes for 16 ranks, 2 CPUs a rank; 1 of 2 has them; "
            "a has 8 free but 15 CPUs, enough for 7 ranks",
        ),
        (
            Request(DeviceKind.CPU, 8, cpus_per_rank=2),
            [node("laptop", cpus=4)],
            "needs 8 CPU slots in one node, 2 CPUs a rank; laptop has 4 CPUs, enough for 2 ranks",
        ),
        (
            Request(ASCEND, 8),
            [node("a", *EIGHT, cpus=0)],
            "needs 8 free NPUs in one node; a has 8 free but no CPU that may be used",
        ),
        (
            Request(ASCEND, 9, ranks_per_node=4),
            [node("a", *EIGHT), node("b", *EIGHT)],
            "needs 4 free NPUs on each of 3 nodes, 1 on the last for 9 ranks; 2 of 2 have them",
        ),
        (Request(DeviceKind.GPU, 2), [node("a", *EIGHT)], "needs 2 GPUs; a has none"),
        (Request(DeviceKind.GPU, 1), [], "needs 1 GPU; there is no node"),
        (
            Request(ASCEND, 8, ranks_per_node=4),
            [node("a", *rings()), node("b", *rings())],
            "4 NPUs on each of 2 nodes: a job on several nodes has 8 on each",
        ),
        (
            Request(ASCEND, 3),
            [node("a", *rings()), node("b", *pairs())],
            "3 NPUs cannot go together here: a job has 1 die, or whole cards of two; "
            "or 1, 2 or 4 in one ring, or whole nodes of 8",
        ),
    ],
)
def test_other_reasons(request_: Request, nodes: list[Node], reason: str) -> None:
    """CPUs, nodes without such devices, and numbers that no fabric has."""
    assert why(request_, *nodes) == reason


def test_more_nodes_would_do_as_well() -> None:
    """Where no node has so many devices at all, it is not one node that is asked for."""
    sixteen = Request(ASCEND, 16)
    assert why(sixteen, node("a", *EIGHT)) == "needs 16 free NPUs; the one node can give 8"
    assert why(sixteen, node("a", *rings())) == "needs 16 free NPUs; the one node can give 8"
    assert why(Request(ASCEND, 12), node("a", *rings())).startswith("12 NPUs cannot go together")


def test_nodes_that_cannot_work_together_are_not_added_up() -> None:
    """A 910A goes only with its like, so 8 of it and 16 of others are not 24."""
    nodes = [node("a", *rings()), node("b", *EIGHT), node("c", *EIGHT)]
    reason = "needs 24 free NPUs; nodes that can work together give 16 at most"
    assert why(Request(ASCEND, 24), *nodes) == reason


def test_nothing_moves_the_cursor() -> None:
    """Names of nodes and reasons may hold what a terminal would obey."""
    barred = withheld("n\x1b[2J", [0], why="\x1b[31m gone\a")
    reason = why(Request(ASCEND, 2, withheld=barred), node("n\x1b[2J", *EIGHT[:2]))
    assert reason.isprintable() and "gone" in reason


def test_names_come_in_order() -> None:
    """However the inventory lists the nodes."""
    nodes = [node(name) for name in "dbca"]
    assert why(Request(ASCEND, 1), *nodes) == "needs 1 NPU; a, b, c and 1 more have none"


def test_long_words_are_cut() -> None:
    """Names, reasons and their number are bounded, and nothing breaks the line."""
    reasons = {
        key: text
        for number in range(400)
        for device in range(8)
        for key, text in withheld(
            f"{number}{'n' * 300}", [device], why=f"{device} said\n{'x' * 5000}"
        ).items()
    }
    nodes = [node(f"{number}{'n' * 300}", *EIGHT) for number in range(400)]
    reason = why(Request(ASCEND, 8, withheld=reasons), *nodes)
    assert len(reason) < 1600 and "\n" not in reason
    assert "5 more withheld" in reason and "397 more nodes" in reason


@given(clusters(), requests)
def test_every_refusal_is_one_line_that_says_what_is_needed(
    inventory: Inventory, request: Request
) -> None:
    """Whatever the fabrics, of bounded length."""
    answer = allocate(inventory, replace(request, ranks=request.ranks + 7))
    if isinstance(answer, Refusal):
        assert answer.reason.splitlines() == [answer.reason]
        assert len(answer.reason) < 1600
        assert "needs " in answer.reason or " a job " in answer.reason
