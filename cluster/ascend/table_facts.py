"""What a probe found of a server, as a rank table needs it."""

from __future__ import annotations

from cluster.ascend.report import NodeReport
from cluster.rank_table.values import ServerFacts


def server_facts(report: NodeReport, server_id: str) -> ServerFacts:
    """Addresses by physical id; a device whose address could not be measured has none."""
    ips = {
        device.physical: (device.ip,)
        for device in report.devices
        if isinstance(device.physical, int) and isinstance(device.ip, str)
    }
    return ServerFacts(server_id, ips)
