"""Rank tables from facts about servers, and from a placement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from cluster.allocate import Placement
from cluster.device import Fabric
from cluster.rank_table.values import Model, RankTable, ServerFacts, TableDevice, TableServer

_MODELS = {Fabric.RINGS: Model.A910, Fabric.MESH: Model.B910, Fabric.PAIRS: Model.A3}


def model_of(fabrics: Iterable[Fabric]) -> Model | None:
    """The generation of devices that are joined so; None if they differ, or none is known."""
    known = set(fabrics) - {Fabric.UNKNOWN}
    return _MODELS.get(known.pop()) if len(known) == 1 else None


def make(servers: Iterable[tuple[ServerFacts, Iterable[int]]]) -> RankTable:
    """The table of these devices of these servers, with ranks from 0 in this order.

    It is of version 1.2 if any server is in a super-pod.
    """
    ranks = count()
    return _table([(facts, [(number, next(ranks)) for number in ids]) for facts, ids in servers])


def from_placement(placement: Placement, known: Mapping[str, ServerFacts]) -> RankTable:
    """The table of a placement; `known` has the facts of its nodes by name.

    Raises ValueError for devices that have no rank table, and for nodes that are not known.
    """
    kinds = {a.device.kind for a in placement.assignments if not a.device.kind.has_rank_table}
    if kinds:
        named = ", ".join(sorted(kind.value for kind in kinds))
        raise ValueError(f"{named} devices have no rank table")
    places: dict[str, list[tuple[int, int]]] = {}
    for one in placement.assignments:
        places.setdefault(one.node, []).append((one.device.index, one.rank))
    if unknown := sorted(places.keys() - known.keys()):
        raise ValueError(f"no addresses are known of {', '.join(unknown)}")
    return _table([(known[node], devices) for node, devices in places.items()])


def _table(places: Sequence[tuple[ServerFacts, Sequence[tuple[int, int]]]]) -> RankTable:
    """Of servers with device ids and ranks."""
    servers = tuple(_server(facts, devices) for facts, devices in places)
    in_pods = any(server.super_pod is not None for server in servers)
    return RankTable("1.2" if in_pods else "1.0", servers)


def _server(facts: ServerFacts, devices: Sequence[tuple[int, int]]) -> TableServer:
    listed = tuple(
        TableDevice(number, rank, tuple(facts.ips.get(number, ())), facts.sdids.get(number))
        for number, rank in devices
    )
    return TableServer(facts.server_id, listed, facts.super_pod)
