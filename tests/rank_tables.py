"""Rank tables for tests: good ones of every form, and one mutation for each rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from cluster.ascend.report import NodeReport
from cluster.ascend.table_facts import server_facts
from cluster.ascend.values import Unmeasured
from cluster.rank_table import Model, RankTable, ServerFacts, Severity, make, merge, text_of
from cluster.simulated.node import SimulatedNode
from tests.simulated import node, report

Document = dict[str, Any]
A910, B910, A3 = Model.A910, Model.B910, Model.A3
E, W = Severity.ERROR, Severity.WARNING

SETS = ([0], [5], [0, 1], [6, 7], [0, 1, 2, 3], [4, 5, 6, 7], list(range(8)))
"""Devices that a 910 job may use of a server."""


def facts(server: int, ids: list[int], *, family: int = 4, pod: str | None = None) -> ServerFacts:
    """A server with addresses of its own."""
    start = "192.168" if family == 4 else "fd00:"
    dot = "." if family == 4 else ":"
    ips = {number: (f"{start}{dot}{server}{dot}{number + 1}",) for number in ids}
    sdids = {number: server << 22 | number for number in ids} if pod is not None else {}
    return ServerFacts(f"node-{server:05d}", ips, sdids, pod)


@st.composite
def tables(draw: st.DrawFn, least: int = 1, form: str = "1.0") -> RankTable:
    """A good table of `least` to four servers; for 1.2 of as many pods of two servers."""
    ids = draw(st.sampled_from([ids for ids in SETS if form == "1.0" or len(ids) > 1]))
    family = draw(st.sampled_from([4, 6]))
    count = draw(st.integers(least, 4))
    if form == "1.0":
        return make([(facts(n, ids, family=family), ids) for n in range(count)])
    pods = [(n, str(n // 2)) for n in range(2 * count)]
    return make([(facts(n, ids, family=family, pod=pod), ids) for n, pod in pods])


def document(table: RankTable) -> Document:
    """The table as JSON values, to be broken."""
    loaded: Document = json.loads(text_of(table))
    return loaded


def legacy(servers: int = 2, devices: int = 2) -> Document:
    """The deprecated form."""
    instances = [
        {
            "pod_name": str(n),
            "server_id": f"10.0.0.{n}",
            "devices": [
                {"device_id": str(d), "device_ip": f"192.168.{n}.{d + 1}"} for d in range(devices)
            ],
        }
        for n in range(servers)
    ]
    group = {
        "group_name": "",
        "instance_count": str(servers),
        "device_count": str(servers * devices),
        "instance_list": instances,
    }
    return {"status": "completed", "group_count": "1", "group_list": [group]}


@dataclass(frozen=True)
class Mutation:
    """Breaks `code`. `apply` gets the document, one of its servers, and a device of that server.

    `least` servers are needed. The finding has `severity` if `model` is asked for.
    """

    code: str
    what: str
    apply: Callable[[Document, Document, Document], object]
    severity: Severity = E
    form: str = "1.0"
    least: int = 1
    model: Model | None = None

    def __str__(self) -> str:
        return f"{self.code} {self.what}"


def put(key: str, value: Any, of: str = "device") -> Callable[[Document, Document, Document], None]:
    """Set a field of the device, the server or the document."""

    def apply(doc: Document, server: Document, device: Document) -> None:
        {"device": device, "server": server, "table": doc}[of][key] = value

    return apply


def drop(key: str, of: str = "device") -> Callable[[Document, Document, Document], object]:
    """Remove a field."""
    return lambda d, s, dev: {"device": dev, "server": s, "table": d}[of].pop(key)


def other(doc: Document, server: Document) -> Document:
    """A server that is another one."""
    found: Document = next(one for one in doc["server_list"] if one is not server)
    return found


def as_number(key: str, of: str) -> Callable[[Document, Document, Document], None]:
    """Write a text of digits as a number."""

    def apply(doc: Document, server: Document, device: Document) -> None:
        holder = {"device": device, "server": server, "table": doc}[of]
        holder[key] = float(holder[key]) if "." in holder[key] else int(holder[key])

    return apply


def swap_ranks(doc: Document, server: Document, device: Document) -> None:
    """Exchange ranks of two servers, first of one with last of the other."""
    one, two = doc["server_list"][0]["device"], doc["server_list"][1]["device"]
    if len(one) == 1:  # two ranks each are the least that can interleave
        for listed, name in ((one, "a"), (two, "b")):
            extra = {**listed[0], "device_id": str(int(listed[0]["device_id"]) ^ 1)}
            listed.append({**extra, "device_ip": f"10.9.{name == 'a':d}.1"})
        ranks = iter(range(100))
        for each in doc["server_list"]:
            for item in each["device"]:
                item["rank_id"] = str(next(ranks))
    one[-1]["rank_id"], two[0]["rank_id"] = two[0]["rank_id"], one[-1]["rank_id"]


def reverse_servers(doc: Document, server: Document, device: Document) -> None:
    """Give the servers' names in the opposite order, ranks as they were."""
    names = [one["server_id"] for one in doc["server_list"]]
    for one, name in zip(doc["server_list"], reversed(names), strict=True):
        one["server_id"] = name


def shift_ranks(doc: Document, server: Document, device: Document) -> None:
    """Leave rank 0 out."""
    for one in doc["server_list"]:
        for item in one["device"]:
            item["rank_id"] = str(int(item["rank_id"]) + 1)


def devices_of(*ids: int) -> Callable[[Document, Document, Document], None]:
    """Use these devices of every server."""

    def apply(doc: Document, server: Document, device: Document) -> None:
        ranks = iter(range(1000))
        for n, one in enumerate(doc["server_list"]):
            one["device"] = [
                {"device_id": str(i), "device_ip": f"10.8.{n}.{i + 1}", "rank_id": str(next(ranks))}
                for i in ids
            ]

    return apply


def alone(doc: Document, server: Document, device: Document) -> None:
    """Keep one server only."""
    doc.update(server_list=[server], server_count="1")


def other_family(doc: Document, server: Document, device: Document) -> None:
    """One device has an address of the other family."""
    text = doc["server_list"][0]["device"][0]["device_ip"]
    doc["server_list"][-1]["device"][-1]["device_ip"] = "fd01::1" if "." in text else "10.7.0.1"


def pods_apart(doc: Document, server: Document, device: Document) -> None:
    """List the servers so that pods interleave."""
    listed = doc["server_list"]
    listed[1], listed[2] = listed[2], listed[1]


def first_pod(doc: Document) -> list[Document]:
    """The servers that the first pod names."""
    named: list[Document] = doc["super_pod_list"][0]["server_list"]
    return named


POD, OLD = "1.2", "legacy"
PLACEHOLDERS = ("-.-.-.-", "get ip failed", "error: get ip failed", "None", "N/A", "-")

MUTATIONS: tuple[Mutation, ...] = (
    Mutation("RT102", "no version", drop("version", "table")),
    Mutation("RT103", "unknown version", put("version", "1.3", "table")),
    Mutation("RT103", "unknown version as a number", put("version", 1, "table")),
    Mutation("RT103", "empty version", put("version", "", "table")),
    Mutation("RT104", "CPUs beside devices", put("version", "1.1", "table")),
    Mutation("RT104", "the 950 series", put("version", "2.0", "table")),
    Mutation("RT105", "super-pods on 910A", lambda *_: None, form=POD, model=A910),
    Mutation("RT105", "super-pods on 910B", lambda *_: None, form=POD, model=B910),
    Mutation("RT106", "legacy", lambda *_: None, W, form=OLD),
    Mutation("RT106", "legacy on 910A", lambda *_: None, W, form=OLD, model=A910),
    Mutation("RT106", "legacy on 910B", lambda *_: None, form=OLD, model=B910),
    Mutation("RT111", "no status", drop("status", "table")),
    Mutation("RT111", "no server_list", drop("server_list", "table")),
    Mutation("RT111", "no server_id", drop("server_id", "server")),
    Mutation("RT111", "no device", drop("device", "server")),
    Mutation("RT111", "no device_id", drop("device_id")),
    Mutation("RT111", "no rank_id", drop("rank_id")),
    Mutation("RT111", "no super_pod_id", lambda d, s, v: d["super_pod_list"][0].pop("super_pod_id"),
             form=POD),
    Mutation("RT112", "version as a number", as_number("version", "table")),
    Mutation("RT112", "server_count as a number", as_number("server_count", "table")),
    Mutation("RT112", "device_id as a number", as_number("device_id", "device")),
    Mutation("RT112", "rank_id as a number", as_number("rank_id", "device")),
    Mutation("RT112", "super_device_id as a number", as_number("super_device_id", "device"),
             form=POD),
    Mutation("RT113", "null", put("device_id", None)),
    Mutation("RT113", "true", put("rank_id", True)),
    Mutation("RT113", "a list as text", put("server_id", ["a"], "server")),
    Mutation("RT113", "an object as list", put("server_list", {}, "table")),
    Mutation("RT113", "a text as device", put("device", ["0"], "server")),
    Mutation("RT114", "a sign", put("rank_id", "-1")),
    Mutation("RT114", "a name", put("device_id", "davinci0")),
    Mutation("RT114", "nothing", put("device_id", "")),
    Mutation("RT114", "a blank", put("server_count", "1 ", "table")),
    Mutation("RT114", "other digits", put("rank_id", "٣")),
    Mutation("RT114", "a very long number", put("rank_id", "9" * 5000)),
    Mutation("RT115", "a misspelt field", put("devise_ip", "10.0.0.1"), W),
    Mutation("RT121", "still being written", put("status", "initializing", "table")),
    Mutation("RT122", "capital letters", put("status", "Completed", "table")),
    Mutation("RT122", "empty status", put("status", "", "table")),
    Mutation("RT123", "no server_count", drop("server_count", "table"), W),
    Mutation("RT124", "wrong server_count", put("server_count", "9", "table")),
    Mutation("RT124", "no servers counted", put("server_count", "0", "table")),
    Mutation("RT125", "no servers", put("server_list", [], "table")),
    Mutation("RT126", "wrong group_count", put("group_count", "2", "table"), W, form=OLD),
    Mutation("RT201", "empty server_id", put("server_id", "", "server")),
    Mutation("RT202", "long server_id", put("server_id", "n" * 65, "server")),
    Mutation("RT203", "server_id twice",
             lambda d, s, v: s.update(server_id=other(d, s)["server_id"]), least=2),
    Mutation("RT204", "no devices", put("device", [], "server")),
    Mutation("RT205", "unequal servers",
             lambda d, s, v: devices_of(0, 1)(d, s, v) or s["device"].pop(), W, least=2),
    Mutation("RT205", "unequal servers on 910A",
             lambda d, s, v: devices_of(0, 1)(d, s, v) or s["device"].pop(), least=2, model=A910),
    Mutation("RT206", "three devices", devices_of(0, 1, 2), W),
    Mutation("RT206", "six devices on 910A", devices_of(0, 1, 2, 3, 4, 5), model=A910),
    Mutation("RT207", "both rings", devices_of(3, 4), W),
    Mutation("RT207", "both rings on 910A", devices_of(2, 3, 4, 5), model=A910),
    Mutation("RT208", "one die on A3", devices_of(0, 1, 2), model=A3),
    Mutation("RT211", "device 16", put("device_id", "16")),
    Mutation("RT211", "device 16 on A3", put("device_id", "16"), model=A3),
    Mutation("RT212", "device 8", put("device_id", "8"), W),
    Mutation("RT212", "device 15 on 910A", put("device_id", "15"), model=A910),
    Mutation("RT213", "device twice", lambda d, s, v: s["device"].append({**v})),
    Mutation("RT213", "device twice, written otherwise",
             lambda d, s, v: s["device"].append({**v, "device_id": "0" + v["device_id"]})),
    Mutation("RT214", "port 0", put("device_port", "0")),
    Mutation("RT214", "port too high", put("host_port", "65536")),
    Mutation("RT214", "port of letters", put("backup_device_port", "http")),
    Mutation("RT215", "low port", put("device_port", "80"), W),
    Mutation("RT301", "no device_ip, several servers", drop("device_ip"), least=2),
    Mutation("RT301", "no device_ip, several pods", drop("device_ip"), form=POD, least=2),
    Mutation("RT302", "no device_ip, one server",
             lambda d, s, v: alone(d, s, v) or v.pop("device_ip"), W),
    Mutation("RT302", "no device_ip, one server of 910A",
             lambda d, s, v: alone(d, s, v) or v.pop("device_ip"), model=A910),
    Mutation("RT303", "no device_ip in a pod",
             lambda d, s, v: d.update(super_pod_list=d["super_pod_list"][:1]) or v.pop("device_ip"),
             W, form=POD),
    Mutation("RT304", "empty device_ip", put("device_ip", "")),
    *(Mutation("RT305", text, put("device_ip", text)) for text in PLACEHOLDERS),
    Mutation("RT306", "not four parts", put("device_ip", "192.168.1")),
    Mutation("RT306", "a part above 255", put("device_ip", "192.168.1.256")),
    Mutation("RT306", "a leading zero", put("device_ip", "192.168.01.1")),
    Mutation("RT306", "a blank", put("device_ip", "192.168.1.1 ")),
    Mutation("RT306", "a network", put("device_ip", "192.168.1.0/24")),
    Mutation("RT306", "a zone", put("device_ip", "fe80::1%eth0")),
    Mutation("RT306", "a blank after the comma", put("device_ip", "10.1.1.1, 10.1.1.2")),
    Mutation("RT307", "unspecified", put("device_ip", "0.0.0.0")),
    Mutation("RT307", "this host", put("device_ip", "127.0.0.1")),
    Mutation("RT307", "a group", put("device_ip", "224.0.0.1")),
    Mutation("RT307", "everybody", put("device_ip", "255.255.255.255")),
    Mutation("RT308", "address twice",
             lambda d, s, v: v.update(device_ip=other(d, s)["device"][0]["device_ip"]), least=2),
    Mutation("RT308", "address twice in one device",
             lambda d, s, v: v.update(device_ip=f"{v['device_ip']},{v['device_ip']}")),
    Mutation("RT309", "one address more",
             lambda d, s, v: v.update(device_ip=f"{v['device_ip']},10.6.0.1"), least=2),
    Mutation("RT310", "both families", other_family, least=2),
    Mutation("RT311", "both families on one server",
             lambda d, s, v: alone(d, s, v) or devices_of(0, 1)(d, s, v) or other_family(d, s, v),
             W),
    Mutation("RT312", "hosts of both families",
             lambda d, s, v: s.update(host_ip="10.0.0.1")
             or other(d, s)["device"][0].update(host_ip="fd00::1"), least=2),
    Mutation("RT313", "host_ip is a name", put("host_ip", "node-1", "server"), W),
    Mutation("RT401", "rank twice",
             lambda d, s, v: v.update(rank_id=other(d, s)["device"][0]["rank_id"]), least=2),
    Mutation("RT402", "no rank 0", shift_ranks),
    Mutation("RT402", "a rank far away", put("rank_id", "4294967295")),
    Mutation("RT403", "interleaved", swap_ranks, least=2),
    Mutation("RT404", "names against ranks", reverse_servers, W, least=2),
    Mutation("RT501", "no super_device_id", drop("super_device_id"), form=POD),
    Mutation("RT502", "super_device_id twice",
             lambda d, s, v: [item.update(super_device_id="7") for item in s["device"]], form=POD),
    Mutation("RT503", "33 bits", put("super_device_id", str(1 << 32)), form=POD),
    Mutation("RT504", "no super_pod_list", drop("super_pod_list", "table"), W, form=POD),
    Mutation("RT505", "empty super_pod_id",
             lambda d, s, v: d["super_pod_list"][0].update(super_pod_id=""), form=POD),
    Mutation("RT506", "super_pod_id twice",
             lambda d, s, v: [pod.update(super_pod_id="x") for pod in d["super_pod_list"]],
             form=POD, least=2),
    Mutation("RT507", "an unlisted server in a pod",
             lambda d, s, v: first_pod(d)[0].update(server_id="ghost"), form=POD),
    Mutation("RT508", "a server in no pod", lambda d, s, v: first_pod(d).pop(), form=POD),
    Mutation("RT509", "a server in two pods",
             lambda d, s, v: d["super_pod_list"][-1]["server_list"].append({**first_pod(d)[0]}),
             form=POD, least=2),
    Mutation("RT510", "pods apart", pods_apart, form=POD, least=2),
    Mutation("RT511", "unequal pods",
             lambda d, s, v: d["super_pod_list"][1]["server_list"].append(first_pod(d).pop()), W,
             form=POD, least=2),
    Mutation("RT512", "pods in 1.0", put("version", "1.0", "table"), W, form=POD),
)  # fmt: skip
"""At least one for every rule about the contents of a table."""

GOOD = text_of(make([(facts(1, [0, 1]), [0, 1])]))

TEXTS: tuple[tuple[str, str, bytes, Severity], ...] = (
    ("RT002", "too large", b" " * ((16 << 20) + 1), E),
    ("RT002", "too many", b'{"server_list": [' + b"{}, " * 150_000 + b"{}]}", E),
    ("RT003", "UTF-16", GOOD.encode("utf-16"), E),
    ("RT003", "a stray byte", GOOD.encode().replace(b"node", b"n\xffde"), E),
    ("RT004", "byte-order mark", b"\xef\xbb\xbf" + GOOD.encode(), W),
    ("RT005", "empty", b"", E),
    ("RT005", "blank", b" \n", E),
    ("RT005", "cut short", GOOD.encode()[:-40], E),
    ("RT005", "two documents", GOOD.encode() * 2, E),
    ("RT005", "YAML", b"status: completed", E),
    ("RT005", "single quotes", GOOD.encode().replace(b'"', b"'"), E),
    ("RT005", "NaN", b'{"version": NaN}', E),
    ("RT005", "a comment", b"// table\n" + GOOD.encode(), E),
    ("RT006", "comma before }", GOOD.encode().replace(b'"completed"', b'"completed",\n'), E),
    ("RT006", "comma before ]", b'{"server_list": [1, 2,]}', E),
    ("RT007", "status twice", GOOD.encode().replace(b"{", b'{"status": "completed",', 1), E),
    ("RT007", "rank twice", GOOD.encode().replace(b'"rank_id"', b'"device_id": "3", "rank_id"'), E),
    ("RT008", "deep", GOOD.encode().replace(b'"reserve"', b"[" * 9 + b"]" * 9), E),
    ("RT008", "very deep", b"[" * 100_000 + b"]" * 100_000, E),
    ("RT008", "very deep objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, E),
    ("RT101", "a list", b"[" + GOOD.encode() + b"]", E),
    ("RT101", "null", b"null", E),
    ("RT101", "a text", b'"table"', E),
)
"""What is wrong before a table is seen: code, what, the text, severity."""


def of(where: SimulatedNode, *ids: int, server: str = "here", more: int = 0) -> RankTable:
    """The table of a node's devices (all that are seen there), and of `more` servers beside it."""
    known = server_facts(report(where), server)
    listed = ids or tuple(device.physical for device in where.seen)
    others = [(facts(n + 50, list(listed), pod=f"p{n}"), listed) for n in range(more)]
    if known.super_pod is None:
        others = [(replace(one, super_pod=None, sdids={}), ids) for one, ids in others]
    return make([(known, listed), *others])


def altered(table: RankTable, **changes: object) -> RankTable:
    """The table with other values in the first device of its first server."""
    server = table.servers[0]
    device = replace(server.devices[0], **changes)  # type: ignore[arg-type]
    changed = replace(server, devices=(device, *server.devices[1:]))
    return replace(table, servers=(changed, *table.servers[1:]))


@dataclass(frozen=True)
class Contradiction:
    """A table, and a node that contradicts it by `code`; nothing else is found there."""

    code: str
    what: str
    table: RankTable
    node: SimulatedNode
    severity: Severity = E
    model: Model | None = None
    environment: dict[str, str] = field(default_factory=dict)
    spoil: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code} {self.what}"

    @property
    def report(self) -> NodeReport:
        """What the probe says, with the values of `spoil` in its first device."""
        found = report(self.node, self.environment)
        first = replace(found.devices[0], **self.spoil)  # type: ignore[arg-type]
        return replace(found, devices=(first, *found.devices[1:]))


def pair(*faults: str, model: str = "910B3") -> SimulatedNode:
    """Two devices (on A3 one card), with faults."""
    return node(model, 1 if model == "A3" else 2, *faults)


CONTAINER = node(visible=[4, 5, 6, 7])
"""It sees devices 4 to 7 as 0 to 3."""
POD_TABLE = of(pair(model="A3"))

CONTRADICTIONS: tuple[Contradiction, ...] = (
    Contradiction("RT602", "driver down", of(pair()), pair("driver-down")),
    Contradiction("RT602", "not permitted", of(pair()), pair("denied")),
    Contradiction("RT602", "npu-smi hangs", of(pair()), pair("hang")),
    Contradiction("RT603", "910A asked for", of(pair()), pair(), model=A910),
    Contradiction("RT603", "A3 asked for", of(pair()), pair(), model=A3),
    Contradiction("RT604", "a container's ids", of(node(), 0, 1, 2, 3), CONTAINER),
    Contradiction("RT604", "some are physical too", of(node(), 0, 1, 2, 3),
                  node(visible=[2, 3, 4, 5])),
    Contradiction("RT605", "a larger node's", of(node("910B3", 3)), pair()),
    Contradiction("RT605", "the host's, in a container", of(node(), 2, 3, 4, 5), CONTAINER),
    Contradiction("RT606", "lost", of(pair()), pair("lost:1")),
    Contradiction("RT607", "alarm", of(pair()), pair("alarm:0=80E01801")),
    Contradiction("RT607", "critical", of(pair()), pair("critical:1")),
    Contradiction("RT607", "unknown", of(pair()), pair("unknown:1")),
    Contradiction("RT608", "a warning", of(pair()), pair("warning:0=80E20207"), W),
    Contradiction("RT608", "another address configured", of(pair()), pair(), W,
                  spoil={"notes": ("/etc/hccn.conf names 10.0.0.1, hccn_tool 10.0.0.2",)}),
    Contradiction("RT609", "a foreign process", of(pair()), pair("foreign:0")),
    Contradiction("RT610", "left out", of(pair()), pair(), W,
                  environment={"ASCEND_RT_VISIBLE_DEVICES": "1"}),
    Contradiction("RT611", "another address", altered(of(pair()), ips=("10.0.0.1",)), pair()),
    Contradiction("RT611", "no address at all", altered(of(pair()), ips=("-.-.-.-",)), pair()),
    Contradiction("RT612", "no address now", of(pair()), pair("no-ip:1")),
    Contradiction("RT612", "dashes now", of(pair()), pair("dashes-ip:1")),
    Contradiction("RT613", "no address anywhere", of(pair("no-ip:0")), pair("no-ip:0"), W),
    Contradiction("RT614", "link down, two servers", of(pair(), more=1), pair("link-down:0")),
    Contradiction("RT614", "unreachable, two servers", of(pair(), more=1), pair("unreachable:0")),
    Contradiction("RT614", "link down, two super-pods", of(pair(model="A3"), more=1),
                  pair("link-down:0", model="A3")),
    Contradiction("RT615", "link down, one server", of(pair()), pair("link-down:0"), W),
    Contradiction("RT615", "link down, one super-pod", POD_TABLE,
                  pair("link-down:0", model="A3"), W),
    Contradiction("RT615", "link down, two servers of one super-pod",
                  merge([POD_TABLE, make([(facts(8, [0, 1], pod="0"), [0, 1])])]),
                  pair("link-down:0", model="A3"), W),
    Contradiction("RT616", "another SDID", altered(POD_TABLE, sdid=1), pair(model="A3")),
    Contradiction("RT617", "another super-pod",
                  replace(POD_TABLE, servers=(replace(POD_TABLE.servers[0], super_pod="7"),)),
                  pair(model="A3"), W),
    Contradiction("RT618", "hccn_tool fails", of(pair()), pair(), W,
                  spoil={"ip": Unmeasured("hccn_tool: not found")}),
    Contradiction("RT618", "only the file names it", of(pair()), pair(), W,
                  spoil={"ip_source": "/etc/hccn.conf"}),
    Contradiction("RT618", "IPv6", altered(of(pair()), ips=("fd00::1",)), pair(), W),
    Contradiction("RT618", "no SDID", POD_TABLE, pair(model="A3"), W,
                  spoil={"sdid": Unmeasured("npu-smi failed")}),
    Contradiction("RT618", "which is which", of(pair()), pair(), W,
                  spoil={"physical": Unmeasured("npu-smi shows others than /dev")}),
)  # fmt: skip
"""At least one for every rule about a table beside a node; RT601 is about finding the server."""
