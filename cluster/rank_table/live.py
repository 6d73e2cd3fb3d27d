"""A table beside what the tools of one of its servers say now. Pure: a report was made before.

Places are those of versions 1.0 and 1.2; of a table in the deprecated form, those that it would
have there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cluster.ascend.report import DeviceReport, NodeReport
from cluster.ascend.table_facts import model_of
from cluster.ascend.values import Absent, Link, NetHealth, Unmeasured
from cluster.rank_table.addresses import parsed
from cluster.rank_table.findings import Found
from cluster.rank_table.matching import same
from cluster.rank_table.quoting import shown
from cluster.rank_table.values import Model, RankTable, TableDevice, TableServer

_LONGEST = 300


def live(
    table: RankTable, report: NodeReport, server_id: str, model: Model | None = None
) -> tuple[Found, ...]:
    """All that one server of the table says and its node does not, or what is wrong there.

    `model` is the one that was asked for, None if none was. Raises KeyError for a server that
    the table does not have.
    """
    places = {server.server_id: place for place, server in enumerate(table.servers)}
    place = places[server_id]
    return tuple(
        (code, where, " ".join(found.split()))
        for code, where, found in _live(table, report, place, model)
    )


def unmatched(report: NodeReport, how: str) -> tuple[Found, ...]:
    """What is to be said where no server of the table is this node, and `how` that was seen."""
    return (("RT601", "server_list", how), *_answer(report))


def _answer(report: NodeReport) -> Iterator[Found]:
    if not report.answered:
        yield "RT602", "", " ".join(next(iter(report.problems), "no answer").split())


def _live(table: RankTable, report: NodeReport, place: int, model: Model | None) -> Iterator[Found]:
    server, path = table.servers[place], f"server_list[{place}]"
    yield from _answer(report)
    here = model_of(report)
    if here is not None and model is not None and here is not model:
        yield "RT603", "", f"{here.value}, --model says {model.value}"
    if shifted := _shifted(server, report):
        yield from _logical(server, path, shifted)
        return
    known = {one.physical: one for one in report.devices if isinstance(one.physical, int)}
    for number, device in enumerate(server.devices):
        where = f"{path}.device[{number}]"
        one = known.get(device.device_id)
        if one is None:
            yield _missing(device, where, report)
        else:
            yield from _device(table, device, one, where, answered=report.answered)
    yield from _pod(server, path, known)


def _shifted(server: TableServer, report: NodeReport) -> Mapping[int, DeviceReport]:
    """The devices by logical id, if the table has such ids: all of its are, and not all physical.

    That is a container's `make` without the physical ids.
    """
    ids = {device.device_id for device in server.devices}
    logical = {one.logical: one for one in report.devices if isinstance(one.logical, int)}
    physical = {one.physical for one in report.devices}
    return logical if ids <= logical.keys() and not ids <= physical else {}


def _logical(
    server: TableServer, path: str, logical: Mapping[int, DeviceReport]
) -> Iterator[Found]:
    for number, device in enumerate(server.devices):
        one = logical[device.device_id]
        if isinstance(one.physical, Unmeasured):
            found = f"physical id of {device.device_id}: {one.physical.why}"
            yield "RT618", f"{path}.device[{number}].device_id", found
        elif one.physical != device.device_id:
            proof = ", whose address it has" if one.ip in device.ips else ""
            found = f"{device.device_id}, which is device {one.physical} seen from here{proof}"
            yield "RT604", f"{path}.device[{number}].device_id", found


def _missing(device: TableDevice, where: str, report: NodeReport) -> Found:
    unknown = [one.physical.why for one in report.devices if isinstance(one.physical, Unmeasured)]
    if unknown:
        return "RT618", f"{where}.device_id", f"whether {device.device_id} is here: {unknown[0]}"
    there = ", ".join(str(one.physical) for one in report.devices) or "none"
    return "RT605", f"{where}.device_id", f"{device.device_id}; this node has {there}"


def _device(
    table: RankTable, device: TableDevice, one: DeviceReport, where: str, *, answered: bool
) -> Iterator[Found]:
    if not isinstance(one.model, Unmeasured):
        yield from _state(one, f"{where}.device_id")
    elif answered:
        yield "RT606", f"{where}.device_id", f"{device.device_id}: {one.why}"
        return
    yield from _address(device, one, f"{where}.device_ip")
    yield from _port(table, one, where)
    if table.pods and isinstance(one.sdid, int) and one.sdid != device.sdid:
        yield "RT616", f"{where}.super_device_id", f"{device.sdid}, the device has {one.sdid}"
    if answered:
        yield from _unmeasured(table, device, one, where)


def _state(one: DeviceReport, where: str) -> Iterator[Found]:
    if not one.usable:
        level = "" if isinstance(one.level, Unmeasured) else f"{one.level.value}: "
        yield "RT607", where, f"{one.physical}: {level}{one.why}"[:_LONGEST]
    elif one.why or one.notes:
        found = "; ".join(filter(None, (one.why, *one.notes)))
        yield "RT608", where, f"{one.physical}: {found}"[:_LONGEST]
    if isinstance(one.processes, tuple) and one.processes:
        held = ", ".join(f"{p.name or 'a process'} (pid {p.pid})" for p in one.processes)
        yield "RT609", where, f"{one.physical}: by {held}"[:_LONGEST]
    if one.visible is False:
        yield "RT610", where, f"{one.physical}, logical id {one.logical}"


def _address(device: TableDevice, one: DeviceReport, where: str) -> Iterator[Found]:
    text = shown(",".join(device.ips))
    if isinstance(one.ip, Absent):
        if not device.ips:
            yield "RT613", where, f"nothing; {one.ip.why}"
        elif not _only_v6(device):
            yield "RT612", where, f"{text}; {one.ip.why}"
    elif isinstance(one.ip, str) and _differs(device, one.ip):
        yield "RT611", where, f"{text}, the device has '{one.ip}' by {one.ip_source}"


def _differs(device: TableDevice, ip: str) -> bool:
    return bool(device.ips) and not _only_v6(device) and same(ip) not in map(same, device.ips)


def _only_v6(device: TableDevice) -> bool:
    """Whether nothing of the table's can be compared: nobody asks hccn_tool for IPv6."""
    versions = {address.version for ip in device.ips if (address := parsed(ip))}
    return versions == {6}


def _port(table: RankTable, one: DeviceReport, where: str) -> Iterator[Found]:
    """What the port says; it matters where servers have nothing else between them."""
    bad = ["link DOWN"] if one.link is Link.DOWN else []
    if isinstance(one.net_health, NetHealth) and not one.net_health.well:
        bad.append(f"network {one.net_health.value}")
    if bad:
        apart = len(table.pods or table.servers) > 1
        yield "RT614" if apart else "RT615", where, f"{one.physical}: {', '.join(bad)}"


def _pod(server: TableServer, path: str, known: Mapping[int, DeviceReport]) -> Iterator[Found]:
    used = (known.get(device.device_id) for device in server.devices)
    pods = {str(one.super_pod) for one in used if one and isinstance(one.super_pod, int)}
    if server.super_pod is not None and pods - {server.super_pod}:
        found = f"{shown(server.super_pod)}, npu-smi says {', '.join(sorted(pods))}"
        yield "RT617", path, found


def _unmeasured(
    table: RankTable, device: TableDevice, one: DeviceReport, where: str
) -> Iterator[Found]:
    """What nobody stated of a device that npu-smi lists, by reason."""
    reasons: dict[str, list[str]] = {}
    values: dict[str, object] = {
        "address": one.ip,
        "link": one.link,
        "network": one.net_health,
        "processes": one.processes,
        "logical id": one.logical,
    }
    if table.pods:
        values["SDID"] = one.sdid
    for name, value in values.items():
        if isinstance(value, Unmeasured) and not isinstance(value, Absent):
            reasons.setdefault(value.why, []).append(name)
    if one.ip_source.startswith("/"):
        reasons.setdefault(
            f"{one.ip_source} names {one.ip}, hccn_tool did not answer", ["address in force"]
        )
    if _only_v6(device):
        reasons.setdefault("hccn_tool is asked for IPv4 only", []).append("address")
    for why, names in reasons.items():
        yield "RT618", where, f"{one.physical}: {', '.join(names)}: {why}"[:_LONGEST]
