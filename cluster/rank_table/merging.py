"""One rank table of several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count

from cluster.rank_table.values import RankTable


def merge(tables: Iterable[RankTable], *, by_id: bool = False) -> RankTable:
    """All servers of all tables, with new ranks from 0.

    Tables go in their order, servers and devices of each in the order of the ranks they had;
    `by_id` orders servers by id, as MindSpore asks for. Raises ValueError if there is no table, or
    for tables of different versions.
    """
    parts = list(tables)
    if not parts:
        raise ValueError("there are none to merge")
    versions = sorted({part.version for part in parts})
    if len(versions) > 1:
        raise ValueError(f"tables of versions {', '.join(versions)} cannot be merged")
    servers = [
        server for part in parts for server in sorted(part.servers, key=lambda s: s.lowest_rank)
    ]
    if by_id:
        servers.sort(key=lambda server: server.server_id)
    ranks = count()
    renumbered = (
        replace(
            server,
            devices=tuple(
                replace(device, rank=next(ranks))
                for device in sorted(server.devices, key=lambda d: d.rank)
            ),
        )
        for server in servers
    )
    return RankTable(versions[0], tuple(renumbered))
