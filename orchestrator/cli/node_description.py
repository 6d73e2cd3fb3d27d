"""A rehearsal node as a person writes it: a small YAML of how it differs from a well one.

model: 910B3          # the only field that must be there
cards: 8
visible: 4-7          # a container that sees these as 0-3
ips: {2: 10.0.0.9, 3: ''}                                    # '': none is configured
processes: {5: [{pid: 4711, name: python, memory: 2048}]}    # MB
faults: ['lost:3', 'alarm:5=80E01801']
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from cluster.simulated.faults import BadFault, Fault, parse, switch_on
from cluster.simulated.models import MAX_CARDS, MODELS
from cluster.simulated.node import FORMS, Process, SimulatedNode, make
from orchestrator.cli.table_servers import device_ids
from orchestrator.jobfile.loading import text_of
from orchestrator.jobfile.nodes import ListNode, MapNode, Node, RefusedNode, ScalarNode
from orchestrator.jobfile.problems import NOWHERE, Report
from orchestrator.jobfile.reading import read
from orchestrator.jobfile.traps import found

FIELDS = ("model", "cards", "form", "visible", "ips", "processes", "faults")

_PROCESS = ("pid", "name", "memory")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,24}")
_LARGEST = 9_999_999
_T = TypeVar("_T")


def described(file: str) -> SimulatedNode:
    """The node that a file describes. Raises JobFileError with every mistake and its line."""
    report = Report()
    root = read(text_of(file), report)
    if isinstance(root, MapNode):
        node = _Reader(report).node(root)
        if not report:
            return node
    elif not report:
        where = NOWHERE if root is None else root.place
        report.add(where, "", "no fields", ", ".join(FIELDS), "begin with `model: 910B3`")
    raise report.error(file)


class _Reader:
    """Reads the fields; what is wrong is told, and something stands in for it."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def node(self, root: MapNode) -> SimulatedNode:
        fields = self._fields(root, "", FIELDS, required=("model",))
        model = self._choice(fields.get("model"), "model", tuple(MODELS), "910B3")
        cards = self._number(fields.get("cards"), "cards", 1, MAX_CARDS, otherwise=8)
        form = self._choice(fields.get("form"), "form", FORMS, "a")
        well = make(model, cards, form=form)
        ids = well.ids
        ips = self._by_device(fields.get("ips"), "ips", ids, self._ip)
        held = self._by_device(fields.get("processes"), "processes", ids, self._processes)
        devices = tuple(
            replace(d, ip=ips.get(d.physical, d.ip), processes=held.get(d.physical, ()))
            for d in well.devices
        )
        return replace(
            well,
            devices=devices,
            visible=self._visible(fields.get("visible"), ids),
            faults=self._faults(fields.get("faults"), ids),
        )

    def _fields(
        self, node: MapNode, path: str, allowed: Sequence[str], required: Sequence[str]
    ) -> dict[str, Node]:
        fields = {key.text: value for key, value in node.entries}
        for key, _ in node.entries:
            if key.text not in allowed:
                words = ", ".join(allowed)
                self._report.add(key.place, path + key.text, "an unknown field", words)
        for name in required:
            if name not in fields:
                self._report.add(node.place, path + name, "nothing", "this field")
        return fields

    def _choice(self, node: Node | None, path: str, words: Sequence[str], otherwise: str) -> str:
        if node is None:
            return otherwise
        if isinstance(node, ScalarNode) and node.text in words:
            return node.text
        self._wrong(node, path, ", ".join(words))
        return otherwise

    def _number(
        self, node: Node | None, path: str, least: int, most: int, *, otherwise: int
    ) -> int:
        if node is None:
            return otherwise
        if isinstance(node, ScalarNode) and re.fullmatch(r"[0-9]{1,9}", node.text):
            number = int(node.text)
            if least <= number <= most:
                return number
        self._wrong(node, path, f"a number from {least} to {most}")
        return otherwise

    def _by_device(
        self, node: Node | None, path: str, ids: Sequence[int], value: Callable[[Node, str], _T]
    ) -> dict[int, _T]:
        if node is None:
            return {}
        if not isinstance(node, MapNode):
            self._wrong(node, path, "a value for each device, as in {0: …, 1: …}")
            return {}
        values: dict[int, _T] = {}
        for key, entry in node.entries:
            where = f"{path}.{key.text}"
            if re.fullmatch(r"[0-9]{1,4}", key.text) and int(key.text) in ids:
                values[int(key.text)] = value(entry, where)
            else:
                self._report.add(key.place, where, "no device of this node", _span(ids))
        return values

    def _ip(self, node: Node, path: str) -> str:
        text = node.text if isinstance(node, ScalarNode) else "?"
        try:
            return str(ipaddress.ip_address(text)) if text else ""
        except ValueError:
            self._wrong(node, path, "an address, or '' for none")
            return ""

    def _processes(self, node: Node, path: str) -> tuple[Process, ...]:
        if not isinstance(node, ListNode):
            self._wrong(node, path, "a list of processes with pid, name and memory")
            return ()
        return tuple(self._process(item, f"{path}[{i}].") for i, item in enumerate(node.items))

    def _process(self, node: Node, path: str) -> Process:
        if not isinstance(node, MapNode):
            self._wrong(node, path.rstrip("."), ", ".join(_PROCESS))
            return Process(1, "", 0)
        fields = self._fields(node, path, _PROCESS, required=_PROCESS)
        name = fields.get("name")
        if name is not None and not (isinstance(name, ScalarNode) and _WORD.fullmatch(name.text)):
            self._wrong(name, f"{path}name", "up to 24 letters, digits and _ . -")
        return Process(
            self._number(fields.get("pid"), f"{path}pid", 1, _LARGEST, otherwise=1),
            name.text if isinstance(name, ScalarNode) else "",
            self._number(fields.get("memory"), f"{path}memory", 0, 999_999, otherwise=0),
        )

    def _visible(self, node: Node | None, ids: Sequence[int]) -> tuple[int, ...] | None:
        if node is None:
            return None
        try:
            shown = set(device_ids(node.text if isinstance(node, ScalarNode) else ""))
        except ValueError:
            shown = set()
        if not shown or not shown <= set(ids):
            self._wrong(node, "visible", f"ids as in 4-7 or 0,2, among {_span(ids)}")
            return None
        return tuple(sorted(shown))

    def _faults(self, node: Node | None, ids: Sequence[int]) -> tuple[Fault, ...]:
        if node is not None and not isinstance(node, ListNode):
            self._wrong(node, "faults", "a list of faults, as in ['lost:3']")
        on: tuple[Fault, ...] = ()
        for i, item in enumerate(node.items if isinstance(node, ListNode) else ()):
            try:
                on = switch_on(on, parse(item.text if isinstance(item, ScalarNode) else "", ids))
            except BadFault as error:
                self._wrong(item, f"faults[{i}]", str(error))
        return on

    def _wrong(self, node: Node, path: str, allowed: str) -> None:
        if not isinstance(node, RefusedNode):
            self._report.add(node.place, path, found(node), allowed)


def _span(ids: Sequence[int]) -> str:
    return f"{ids[0]}-{ids[-1]}"
