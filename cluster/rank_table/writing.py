"""A rank table as the file that the ModelZoo's tools would have written."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cluster.rank_table.values import RankTable, TableDevice, TableServer

NIC = ("host_nic_ip", "reserve")
"""Written by all tools for MindSpore; HCCL never reads it."""

_LONGEST = 255
"""Bytes of a file name on Linux."""


def text_of(table: RankTable) -> str:
    """The file's text: single values as JSON strings, four blanks, no end of line."""
    return json.dumps(_document(table), indent=4)


def digest_of(table: RankTable) -> str:
    """SHA-256 of the file, in hexadecimal digits."""
    return hashlib.sha256(text_of(table).encode()).hexdigest()


def file_name(table: RankTable) -> str | None:
    """`hccl_8p_01234567_SERVER.json`, or `hccl_2s_16p.json` for several servers.

    None if the server's id cannot be part of a file name.
    """
    if len(table.servers) != 1:
        return f"hccl_{len(table.servers)}s_{table.ranks}p.json"
    [server] = table.servers
    if not server.server_id or "/" in server.server_id or not server.server_id.isprintable():
        return None
    ids = "".join(str(device.device_id) for device in server.devices)
    name = f"hccl_{table.ranks}p_{ids}_{server.server_id}.json"
    return name if len(name.encode()) <= _LONGEST else None


def _document(table: RankTable) -> dict[str, Any]:
    document: dict[str, Any] = {
        "version": table.version,
        "server_count": str(len(table.servers)),
        "server_list": [_server(server) for server in table.servers],
    }
    if pods := table.pods:
        document["super_pod_list"] = [
            {"super_pod_id": pod, "server_list": [{"server_id": name} for name in names]}
            for pod, names in pods.items()
        ]
    return document | {"status": "completed"}


def _server(server: TableServer) -> dict[str, Any]:
    devices = [_device(device) for device in server.devices]
    return dict((("server_id", server.server_id), ("device", devices), NIC, *server.extra))


def _device(device: TableDevice) -> dict[str, str]:
    fields = {"device_id": str(device.device_id)}
    if device.ips:
        fields["device_ip"] = ",".join(device.ips)
    if device.sdid is not None:
        fields["super_device_id"] = str(device.sdid)
    fields["rank_id"] = str(device.rank)
    fields.update(device.extra)
    return fields
