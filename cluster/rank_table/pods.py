"""Rules about super-pods, for tables that have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cluster.rank_table.draft import Draft, DraftPod, DraftServer
from cluster.rank_table.findings import Found
from cluster.rank_table.quoting import shown
from cluster.rank_table.ranks import returns

_BITS = 32


def form(draft: Draft) -> Iterator[Found]:
    """Super-pods are for one model alone."""
    if draft.version == "1.2":
        yield "RT105", "version", "'1.2'"


def names(draft: Draft) -> Iterator[Found]:
    """Ids and sizes of super-pods."""
    pods = draft.pods or ()
    seen: dict[str, str] = {}
    common = Counter(len(pod.servers) for pod in pods).most_common(1)
    for pod in pods:
        where = f"{pod.path}.super_pod_id"
        if pod.pod_id == "":
            yield "RT505", where, "''"
        if pod.pod_id is not None and seen.setdefault(pod.pod_id, where) != where:
            yield "RT506", where, f"{shown(pod.pod_id)}, as {seen[pod.pod_id]}"
        if len(pod.servers) != common[0][0]:
            found = f"{len(pod.servers)} servers, elsewhere {common[0][0]}"
            yield "RT511", f"{pod.path}.server_list", found


def members(draft: Draft) -> Iterator[Found]:
    """Which servers the super-pods name."""
    if draft.pods is None:
        return
    listed = {server.server_id for server in draft.servers}
    seen: dict[str, str] = {}
    for where, name in (
        (f"{path}.server_id", name) for pod in draft.pods for path, name in pod.servers
    ):
        if name is None:
            continue
        if name not in listed and None not in listed and draft.whole:
            yield "RT507", where, shown(name)
        if seen.setdefault(name, where) != where:
            yield "RT509", where, f"{shown(name)}, as {seen[name]}"
    for server in draft.servers if draft.whole else ():
        if server.server_id is not None and server.server_id not in seen:
            yield "RT508", f"{server.path}.server_id", shown(server.server_id)


def order(draft: Draft) -> Iterator[Found]:
    """Servers of a super-pod are listed together."""
    placed = _placed(draft)
    places = (
        (
            id(pod),
            (f"{server.path}.server_id", f"{shown(server.server_id or '')} apart from others"),
        )
        for server, pod in placed
    )
    yield from (("RT510", where, found) for where, found in returns(places))


def device_ids(draft: Draft) -> Iterator[Found]:
    """Ids that devices have in super-pods."""
    for device in draft.devices():
        where = f"{device.path}.super_device_id"
        if draft.pods and "super_device_id" not in device.fields:
            yield "RT501", where, "nothing"
        if device.sdid is not None and device.sdid >> _BITS:
            yield "RT503", where, str(device.sdid)
    seen: dict[tuple[int, int], str] = {}
    for server, pod in _placed(draft):
        for device in server.devices:
            if device.sdid is None:
                continue
            where = f"{device.path}.super_device_id"
            first = seen.setdefault((id(pod), device.sdid), where)
            if first != where:
                yield "RT502", where, f"{device.sdid}, as {first}"


def _placed(draft: Draft) -> list[tuple[DraftServer, DraftPod]]:
    """Servers that a super-pod names, with the first that does."""
    pods: dict[str | None, DraftPod] = {}
    for pod in draft.pods or ():
        for _, name in pod.servers:
            pods.setdefault(name, pod)
    return [
        (server, pods[server.server_id])
        for server in draft.servers
        if server.server_id is not None and server.server_id in pods
    ]
