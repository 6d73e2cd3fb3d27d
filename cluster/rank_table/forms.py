"""Reads the forms of a table: servers and devices (1.0, 1.2), and the deprecated groups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from cluster.rank_table.draft import Draft, DraftDevice, DraftPod, DraftServer
from cluster.rank_table.findings import Findings
from cluster.rank_table.quoting import shown

_TABLE = ("version", "status", "server_count", "server_list", "super_pod_list")
_SERVER = ("server_id", "device", "host_nic_ip", "host_ip", "host_port", "container_ip",
           "hardware_type")  # fmt: skip
_DEVICE = ("device_id", "device_ip", "rank_id", "super_device_id", "device_port", "host_ip",
           "host_port", "backup_device_ip", "backup_device_port")  # fmt: skip
_OPTIONAL_OF_SERVER = ("host_ip", "host_port")
_OPTIONAL_OF_DEVICE = ("device_ip", "device_port", "backup_device_ip", "backup_device_port",
                       *_OPTIONAL_OF_SERVER)  # fmt: skip
_OLD_TABLE = ("status", "group_count", "group_list", "device_num", "server_num",
              "para_plane_nic_location")  # fmt: skip
_OLD_GROUP = ("group_name", "instance_count", "device_count", "instance_list", "device_num",
              "server_num")  # fmt: skip
_OLD_INSTANCE = ("pod_name", "server_id", "devices")
_OLD_DEVICE = ("device_id", "device_ip")

_HINTS, _LONGEST = 100, 40
_NUMBER = re.compile(r"[0-9]{1,10}")

Object = Mapping[str, Any]


def read(document: Object, findings: Findings) -> Draft | None:
    """What can be read of a table; None if it is of a form that is not looked into."""
    reader = _Reader(findings)
    if "version" in document:
        version = reader.text(document, "version", "")
        if version in ("1.1", "2.0"):
            findings.add("RT104", "version", shown(version))
            return None
        if version not in ("1.0", "1.2", None):
            findings.add("RT103", "version", shown(version))
        return reader.table(document, "1.2" if version == "1.2" else "1.0")
    if "group_list" in document:
        findings.add("RT106", "group_list", "no version")
        return reader.groups(document)
    findings.add("RT102", "version", "nothing")
    return reader.table(document, "1.0")


class _Reader:
    """Reads fields by name; what is wrong is a finding, and None stands in for it."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._whole = True
        self._hints = 0

    def table(self, document: Object, version: str) -> Draft:
        """Versions 1.0 and 1.2."""
        self._known(document, "", _TABLE)
        self._status(document)
        servers = tuple(
            self._server(fields, path) for path, fields in self._items(document, "server_list", "")
        )
        if "server_count" in document:
            self._count(document, "server_count", "", len(servers), "RT124")
        else:
            self._findings.add("RT123", "server_count", "nothing")
        return Draft(version, servers, self._pods(document, version), self._whole)

    def groups(self, document: Object) -> Draft:
        """The deprecated form: groups collapse, instances of one server are put together."""
        self._known(document, "", _OLD_TABLE)
        self._status(document)
        groups = self._items(document, "group_list", "")
        self._count(document, "group_count", "", len(groups), "RT126")
        listed = [server for path, group in groups for server in self._group(group, path)]
        servers: dict[str | None, DraftServer] = {}
        for server in listed:
            first = servers.setdefault(server.server_id, server)
            if first is not server:
                both = first.devices + server.devices
                servers[server.server_id] = replace(first, devices=both)
        return Draft("1.0", _ranked(list(servers.values())), None, self._whole)

    def _status(self, document: Object) -> None:
        status = self.text(document, "status", "")
        if status is not None and status != "completed":
            code = "RT121" if status == "initializing" else "RT122"
            self._findings.add(code, "status", shown(status))

    def _server(self, fields: Object, path: str) -> DraftServer:
        self._known(fields, path, _SERVER)
        self._optional(fields, path, _OPTIONAL_OF_SERVER)
        name = self.text(fields, "server_id", path)
        listed = self._items(fields, "device", path)
        devices = tuple(self._device(inner, place) for place, inner in listed)
        return DraftServer(path, name, devices, fields)

    def _device(self, fields: Object, path: str) -> DraftDevice:
        self._known(fields, path, _DEVICE)
        self._optional(fields, path, _OPTIONAL_OF_DEVICE)
        number = self._number(fields, "device_id", path)
        rank = self._number(fields, "rank_id", path)
        sdid = self._number(fields, "super_device_id", path, required=False)
        return DraftDevice(path, number, rank, sdid, fields)

    def _pods(self, document: Object, version: str) -> tuple[DraftPod, ...] | None:
        if "super_pod_list" not in document:
            if version == "1.2":
                self._findings.add("RT504", "super_pod_list", "nothing")
            return None
        if version != "1.2":
            self._findings.add("RT512", "super_pod_list", f"version {version}")
            return None
        listed = self._items(document, "super_pod_list", "")
        return tuple(self._pod(fields, path) for path, fields in listed)

    def _pod(self, fields: Object, path: str) -> DraftPod:
        self._known(fields, path, ("super_pod_id", "server_list"))
        name = self.text(fields, "super_pod_id", path)
        servers = []
        for place, server in self._items(fields, "server_list", path):
            self._known(server, place, ("server_id",))
            servers.append((place, self.text(server, "server_id", place)))
        return DraftPod(path, name, tuple(servers))

    def _group(self, group: Object, path: str) -> list[DraftServer]:
        self._known(group, path, _OLD_GROUP)
        listed = self._items(group, "instance_list", path)
        servers = [self._instance(fields, place) for place, fields in listed]
        devices = sum(len(server.devices) for server in servers)
        self._count(group, "instance_count", path, len(servers), "RT126")
        self._count(group, "device_count", path, devices, "RT126")
        return servers

    def _instance(self, fields: Object, path: str) -> DraftServer:
        self._known(fields, path, _OLD_INSTANCE)
        name = self.text(fields, "server_id", path)
        listed = self._items(fields, "devices", path)
        devices = tuple(self._old_device(*one) for one in listed)
        return DraftServer(path, name, devices, {"device": fields.get("devices")})

    def _old_device(self, path: str, fields: Object) -> DraftDevice:
        self._known(fields, path, _OLD_DEVICE)
        self._optional(fields, path, ("device_ip",))
        number = self._number(fields, "device_id", path)
        kept = {name: fields[name] for name in _OLD_DEVICE if name in fields}
        return DraftDevice(path, number, None, None, kept)

    def text(self, fields: Object, name: str, path: str, *, required: bool = True) -> str | None:
        """A single value; a number counts as the text it should have been."""
        if name not in fields:
            if required:
                self._findings.add("RT111", _at(path, name), "nothing")
            return None
        value = fields[name]
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._findings.add("RT112", _at(path, name), f"the number {value}")
            return str(value)
        self._findings.add("RT113", _at(path, name), f"{_kind(value)} instead of text")
        return None

    def _number(self, fields: Object, name: str, path: str, *, required: bool = True) -> int | None:
        text = self.text(fields, name, path, required=required)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text):
            self._findings.add("RT114", _at(path, name), shown(text))
            return None
        return int(text)

    def _items(self, fields: Object, name: str, path: str) -> list[tuple[str, Object]]:
        """The objects of a list, with their places."""
        where = _at(path, name)
        if name not in fields:
            self._lost("RT111", where, "nothing")
            return []
        if not isinstance(fields[name], list):
            self._lost("RT113", where, f"{_kind(fields[name])} instead of a list")
            return []
        found: list[tuple[str, Object]] = []
        for number, inner in enumerate(fields[name]):
            if isinstance(inner, dict):
                found.append((f"{where}[{number}]", inner))
            else:
                self._lost("RT113", f"{where}[{number}]", f"{_kind(inner)} instead of an object")
        return found

    def _lost(self, code: str, path: str, found: str) -> None:
        self._findings.add(code, path, found)
        self._whole = False

    def _optional(self, fields: Object, path: str, names: tuple[str, ...]) -> None:
        for name in names:
            if name in fields:
                self.text(fields, name, path)

    def _count(self, fields: Object, name: str, path: str, number: int, code: str) -> None:
        said = self._number(fields, name, path, required=False)
        if said is not None and said != number:
            self._findings.add(code, _at(path, name), f"{said}, listed: {number}")

    def _known(self, fields: Object, path: str, names: tuple[str, ...]) -> None:
        for name in fields:
            if name not in names:
                self._findings.add("RT115", path, shown(name) + self._hint(name, names))

    def _hint(self, name: str, names: tuple[str, ...]) -> str:
        """A field that may have been meant; looked for a few times only, for it takes long."""
        self._hints += 1
        if self._hints > _HINTS or len(name) > _LONGEST:
            return ""
        close = get_close_matches(name, names, 1)
        return f"; did you mean {close[0]!r}?" if close else ""


def _ranked(servers: list[DraftServer]) -> tuple[DraftServer, ...]:
    """Servers sorted by id, devices by device id, with the ranks that HCCL gives them."""
    ranked, rank = [], 0
    for server in sorted(servers, key=lambda s: s.server_id or ""):
        devices = []
        for device in sorted(server.devices, key=lambda d: d.device_id or 0):
            devices.append(replace(device, rank=rank))
            rank += 1
        ranked.append(replace(server, devices=tuple(devices)))
    return tuple(ranked)


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(value: object) -> str:
    kinds = {bool: "true or false", type(None): "null", str: "a text", list: "a list"}
    return kinds.get(type(value), "an object" if isinstance(value, dict) else "a number")
