"""What a probe found of a server, as a rank table needs it."""

from __future__ import annotations

from cluster.ascend.report import NodeReport
from cluster.rank_table import making
from cluster.rank_table.values import Model, ServerFacts


def server_facts(report: NodeReport, server_id: str) -> ServerFacts:
    """Addresses by physical id; a device whose address could not be measured has none.

    SDIDs and the super-pod are there for A3, if npu-smi names one super-pod for all that it states.
    """
    named = [(one.physical, one) for one in report.devices if isinstance(one.physical, int)]
    ips = {number: (one.ip,) for number, one in named if isinstance(one.ip, str)}
    sdids = {number: one.sdid for number, one in named if isinstance(one.sdid, int)}
    pods = {one.super_pod for _, one in named if isinstance(one.super_pod, int)}
    if len(pods) != 1:
        return ServerFacts(server_id, ips)
    return ServerFacts(server_id, ips, sdids, str(pods.pop()))


def model_of(report: NodeReport) -> Model | None:
    """The generation of all devices; None if they differ, or none says what it is."""
    return making.model_of(one.fabric for one in report.devices)
