"""This node for `rank-table`: asked once, found in a table, compared with it, and shown."""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import click

from cluster.ascend.report import NodeReport
from cluster.ascend.table_facts import model_of, server_facts
from cluster.rank_table import Checked, Model
from cluster.rank_table.findings import joined
from cluster.rank_table.live import live, unmatched
from cluster.rank_table.matching import Match, match
from orchestrator.cli import EXIT_FAILED
from orchestrator.cli.common import fail
from orchestrator.cli.devices import look
from orchestrator.cli.table_servers import Servers
from orchestrator.found import own_address


@dataclass(frozen=True)
class ThisNode:
    """What its tools said; `names` are the addresses and names of the machine."""

    report: NodeReport
    names: frozenset[str]

    @property
    def model(self) -> Model | None:
        """Its generation, if its devices tell."""
        return model_of(self.report)


@dataclass(frozen=True)
class Compared:
    """A check with what this node adds to it, and which server of the table this node is."""

    checked: Checked
    node: ThisNode
    match: Match

    def document(self) -> dict[str, Any]:
        """For programs: null where something is not known."""
        model, report = self.node.model, self.node.report
        return {
            "server": self.match.server,
            "matched": self.match.how,
            "simulated": report.simulated or None,
            "answered": report.answered,
            "model": None if model is None else model.value,
            "devices": len(report.devices),
        }

    def show(self, *, err: bool = False) -> None:
        """A line for people: what was compared with what."""
        click.echo(f"{about(self.node)}: {self._found()}", err=err)

    def _found(self) -> str:
        if self.match.server is None:
            return f"not compared: {self.match.how}"
        return f"compared with server {self.match.server!r}: {self.match.how}"


def about(node: ThisNode) -> str:
    """The node in words; a simulated one is called that."""
    model = "devices of an unknown model" if node.model is None else node.model.value
    if not node.report.simulated:
        return f"this node ({model})"
    return f"simulated node {node.report.simulated} ({model}, nothing of it is hardware)"


def ask(otherwise: str = "") -> ThisNode:
    """Ask the tools of this node; ends with code 2 where there is no npu-smi to ask.

    `otherwise` says what can be done without.
    """
    report = look()
    if report.tool is None:
        looked = "".join(f"\n  {place}" for place in report.looked_for)
        fail(f"npu-smi was not found: nothing here can be asked{otherwise}. Looked for{looked}")
    return ThisNode(report, own_names())


def own_names() -> frozenset[str]:
    """The host's name, and the addresses of all its interfaces."""
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    addresses = {
        one.address.partition("%")[0]
        for listed in psutil.net_if_addrs().values()
        for one in listed
        if one.family in families
    }
    return frozenset({own_address(), socket.gethostname(), *addresses})


def compare(
    checked: Checked, node: ThisNode, *, server: str | None = None, model: Model | None = None
) -> Compared:
    """Add to a check what this node's tools contradict; `model` is the one that was asked for."""
    if checked.table is None:
        return Compared(checked, node, Match(None, "what the table means is in doubt"))
    found = match(checked.table, node.report, node.names, server)
    if found.server is None:
        return Compared(joined(checked, unmatched(node.report, found.how)), node, found)
    contradicted = live(checked.table, node.report, found.server, model)
    return Compared(joined(checked, contradicted), node, found)


def servers_here(node: ThisNode, server: str | None, ids: tuple[int, ...] | None) -> Servers:
    """This server with the devices named, else with all that are well, those left out told."""
    facts = server_facts(node.report, server or own_address())
    return [(facts, _well(node) if ids is None else ids)]


def _well(node: ThisNode) -> tuple[int, ...]:
    devices = node.report.devices
    ids = tuple(d.physical for d in devices if not d.withheld and isinstance(d.physical, int))
    left_out = [
        f"left out: ascend:{_name(d.physical)}: {d.withheld}" for d in devices if d.withheld
    ]
    if not ids:
        reasons = left_out or node.report.problems or ["npu-smi lists no device"]
        fail("\n".join((f"{about(node)}: no device is well", *reasons)), EXIT_FAILED)
    _tell(left_out)
    return ids


def _name(physical: object) -> str:
    return str(physical) if isinstance(physical, int) else "?"


def _tell(lines: Collection[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
