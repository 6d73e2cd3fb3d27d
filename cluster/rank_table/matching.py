"""Which server of a table this node is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cluster.ascend.report import NodeReport
from cluster.rank_table.addresses import parsed
from cluster.rank_table.quoting import shown
from cluster.rank_table.values import RankTable, TableServer

_OF_HOST = ("host_ip", "container_ip")
_NAMED = 5


@dataclass(frozen=True)
class Match:
    """The id of the server, or None; and by what it was found, or why not. Both printable."""

    server: str | None
    how: str


def match(
    table: RankTable, report: NodeReport, names: Collection[str], given: str | None = None
) -> Match:
    """By the id that was given; else by `names` and addresses of this machine; else by devices'."""
    if given is not None:
        return _given(table, given)
    mine = [(one, name) for one in table.servers for name in _own(one, names)]
    servers = {one.server_id for one, _ in mine}
    if len(servers) > 1:
        return Match(None, f"this machine is {_listed(servers)}")
    if mine:
        server, name = mine[0]
        return Match(server.server_id, f"this machine is {shown(name)}")
    return _by_devices(table, report)


def same(text: str) -> str:
    """An address in the one form that two texts of it share; other texts as they are."""
    address = parsed(text)
    return text if address is None else str(address)


def _given(table: RankTable, given: str) -> Match:
    ids = [server.server_id for server in table.servers]
    if given in ids:
        return Match(given, "by the id that was given")
    return Match(None, f"{shown(given)} was given; the table has {_listed(ids)}")


def _own(server: TableServer, names: Collection[str]) -> list[str]:
    """Those of this machine's names that the server goes by."""
    extra = dict(server.extra)
    ours = {same(name) for name in names}
    texts = (server.server_id, *(extra.get(field, "") for field in _OF_HOST))
    return [text for text in texts if same(text) in ours]


def _by_devices(table: RankTable, report: NodeReport) -> Match:
    here = {same(one.ip) for one in report.devices if isinstance(one.ip, str)}
    counts = {
        server.server_id: sum(any(same(ip) in here for ip in one.ips) for one in server.devices)
        for server in table.servers
    }
    most = max(counts.values(), default=0)
    best = [name for name, count in counts.items() if count == most]
    if not most:
        return Match(None, "neither an address of this machine nor of its devices is in the table")
    if len(best) > 1:
        return Match(None, f"addresses of devices fit {_listed(best)} alike")
    number = "1 address of its devices is" if most == 1 else f"{most} addresses of its devices are"
    return Match(best[0], f"{number} this node's")


def _listed(names: Iterable[str]) -> str:
    quoted = [shown(name) for name in sorted(names)]
    more = f" and {len(quoted) - _NAMED} more" if len(quoted) > _NAMED else ""
    return ", ".join(quoted[:_NAMED]) + more
