"""What `rank-table make` is told: device ids, addresses, and a file that lists servers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cluster.rank_table import ServerFacts
from cluster.rank_table import hccn_conf as hccn
from orchestrator.jobfile.loading import text_of
from orchestrator.jobfile.nodes import (
    ListNode,
    MapNode,
    Node,
    RefusedNode,
    ScalarNode,
    child,
)
from orchestrator.jobfile.problems import NOWHERE, Report, quoted
from orchestrator.jobfile.reading import read
from orchestrator.jobfile.traps import found

Servers = list[tuple[ServerFacts, tuple[int, ...]]]

MOST = 1024
"""Ids above are a slip of the pen, not a device: the check tells those that are merely too high."""

FIELDS = ("id", "devices", "ips", "super_pod", "super_device_ids")
_HALF_OPEN = re.compile(r"\[\s*([0-9]{1,4})\s*,\s*([0-9]{1,4})\s*\)")
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_DEVICES = "device ids as in 0-7 or 0,1,4-5"


def device_ids(text: str) -> tuple[int, ...]:
    """`0-7`, `0,1,4-5`, or the ModelZoo's `[0,8)`. Raises ValueError."""
    if match := _HALF_OPEN.fullmatch(text.strip()):
        return _span(text, int(match[1]), int(match[2]) - 1)
    ids: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{quoted(text)}: expected {_DEVICES}")
        ids += _span(text, int(match[1]), int(match[2] or match[1]))
    return tuple(ids)


def _span(text: str, first: int, last: int) -> tuple[int, ...]:
    if not first <= last < MOST:
        raise ValueError(f"{quoted(text)}: expected a rising range below {MOST}")
    return tuple(range(first, last + 1))


def by_device(texts: Iterable[str], option: str, ids: Iterable[int]) -> dict[int, str]:
    """`N=VALUE` for devices among `ids`, each once. Raises ValueError with every mistake."""
    values: dict[int, str] = {}
    wrong: list[str] = []
    wanted = set(ids)
    for text in texts:
        number, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[0-9]{1,4}", number):
            wrong.append(f"{option} {quoted(text)}: expected DEVICE=VALUE, as in {option} 0=…")
        elif int(number) not in wanted:
            wrong.append(f"{option} {quoted(text)}: device {int(number)} is not among --devices")
        elif int(number) in values:
            wrong.append(f"{option} {quoted(text)}: device {int(number)} was given already")
        else:
            values[int(number)] = value
    if wrong:
        raise ValueError("\n".join(wrong))
    return values


def one_server(
    server: str,
    devices: str,
    ips: Iterable[str],
    hccn_conf: str | None,
    super_pod: str | None,
    sdids: Iterable[str],
) -> Servers:
    """The server that the options of `make` describe. Raises ValueError with the first mistake."""
    ids = device_ids(devices)
    given = by_device(ips, "--ip", ids)
    numbers = by_device(sdids, "--sdid", ids)
    if wrong := [text for text in numbers.values() if not (text.isascii() and text.isdigit())]:
        raise ValueError(f"--sdid {', '.join(wrong)}: expected a number")
    addresses = {number: tuple(text.split(",")) for number, text in given.items()}
    if hccn_conf is not None:
        try:
            addresses = hccn.addresses(Path(hccn_conf).read_text(errors="replace")) | addresses
        except OSError as error:
            raise ValueError(f"--hccn-conf {hccn_conf}: {error.strerror}") from error
    sdid_of = {number: int(text) for number, text in numbers.items()}
    return [(ServerFacts(server, addresses, sdid_of, super_pod), ids)]


def servers_in(file: str) -> Servers:
    """The servers that a YAML (or JSON) file lists. Raises JobFileError with every mistake."""
    report = Report()
    root = read(text_of(file), report)
    servers: Servers = []
    if isinstance(root, ListNode):
        reader = _Reader(report)
        servers = [reader.server(item, f"[{i}]") for i, item in enumerate(root.items)]
    if not servers and not report:
        where = NOWHERE if root is None else root.place
        report.add(where, "", "no list", "a list of servers", "begin each with `- id: …`")
    if report:
        raise report.error(file)
    return servers


class _Reader:
    """Reads the entries of the list; what is wrong is told, and something stands in for it."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def server(self, node: Node, path: str) -> tuple[ServerFacts, tuple[int, ...]]:
        fields = self._fields(node, path)
        ids = self._devices(fields.get("devices"), f"{path}.devices")
        sdids = {
            number: self._number(item, f"{path}.super_device_ids.{number}")
            for number, item in self._by_device(fields, "super_device_ids", path, ids).items()
        }
        ips = {
            number: self._addresses(item, f"{path}.ips.{number}")
            for number, item in self._by_device(fields, "ips", path, ids).items()
        }
        pod = fields.get("super_pod")
        name = self._text(fields["id"], f"{path}.id") if "id" in fields else ""
        pod_id = None if pod is None else self._text(pod, f"{path}.super_pod")
        return ServerFacts(name, ips, sdids, pod_id), ids

    def _fields(self, node: Node, path: str) -> dict[str, Node]:
        if not isinstance(node, MapNode):
            self._wrong(node, path, "a server with " + ", ".join(FIELDS))
            return {}
        fields = {key.text: value for key, value in node.entries}
        for key, _ in node.entries:
            if key.text not in FIELDS:
                allowed = "one of " + ", ".join(FIELDS)
                self._report.add(key.place, child(path, key.text), "an unknown field", allowed)
        for name in ("id", "devices"):
            if name not in fields:
                self._report.add(node.place, child(path, name), "nothing", "this field")
        return fields

    def _devices(self, node: Node | None, path: str) -> tuple[int, ...]:
        if node is None:
            return ()
        parts = node.items if isinstance(node, ListNode) else (node,)
        ids: list[int] = []
        for part in parts:
            try:
                ids += device_ids(part.text if isinstance(part, ScalarNode) else "")
            except ValueError:
                self._wrong(part, path, _DEVICES)
        return tuple(ids)

    def _by_device(
        self, fields: dict[str, Node], key: str, path: str, ids: tuple[int, ...]
    ) -> dict[int, Node]:
        node = fields.get(key)
        if node is None:
            return {}
        if not isinstance(node, MapNode):
            self._wrong(node, child(path, key), "a value for each device, as in {0: …, 1: …}")
            return {}
        values: dict[int, Node] = {}
        for name, value in node.entries:
            if re.fullmatch(r"[0-9]{1,4}", name.text) and int(name.text) in ids:
                values[int(name.text)] = value
            else:
                where = f"{child(path, key)}.{name.text}"
                self._report.add(name.place, where, "no device of this server", "an id of devices")
        return values

    def _addresses(self, node: Node, path: str) -> tuple[str, ...]:
        parts = node.items if isinstance(node, ListNode) else (node,)
        return tuple(self._text(part, path) for part in parts)

    def _number(self, node: Node, path: str) -> int:
        if isinstance(node, ScalarNode) and re.fullmatch(r"[0-9]{1,20}", node.text):
            return int(node.text)
        self._wrong(node, path, "a number")
        return 0

    def _text(self, node: Node, path: str) -> str:
        if isinstance(node, ScalarNode) and node.kind != "null":
            return node.text
        self._wrong(node, path, "a text")
        return ""

    def _wrong(self, node: Node, path: str, allowed: str) -> None:
        if not isinstance(node, RefusedNode):
            self._report.add(node.place, path, found(node), allowed)
