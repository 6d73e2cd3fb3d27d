"""A stored document as nodes, as if somebody had written its values into a job file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from orchestrator.jobfile.nodes import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    ListNode,
    MapNode,
    Node,
    RefusedNode,
    ScalarNode,
    child,
)
from orchestrator.jobfile.problems import NOWHERE, Report, quoted

# A document has the defaults besides what stood in the file, and lists joined to one argument.
_MAX_NODES = 2 * MAX_NODES
_MAX_TEXT = MAX_BYTES


def nodes_of(document: Mapping[str, Any], report: Report) -> Node:
    """The document's nodes; a key without a value is left out, as it is in a job file."""
    return _Writer(report).node(document, "", 1)


class _Writer:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._nodes = 0

    def node(self, value: Any, path: str, depth: int) -> Node:
        self._nodes += 1
        if depth > MAX_DEPTH:
            return self._refused(path, "deeper nesting", f"{MAX_DEPTH} levels")
        if self._nodes > _MAX_NODES:
            return self._refused(path, f"more than {_MAX_NODES} values", f"{_MAX_NODES}")
        if isinstance(value, Mapping):
            entries = self._entries(value, path, depth + 1)
            return MapNode(tuple(entries), NOWHERE)
        if isinstance(value, (list, tuple)):
            items = (self.node(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value))
            return ListNode(tuple(items), NOWHERE)
        return self._scalar(value, path)

    def _entries(
        self, value: Mapping[Any, Any], path: str, depth: int
    ) -> Iterable[tuple[ScalarNode, Node]]:
        for name, item in value.items():
            if item is None:
                continue
            key = self._scalar(name, path)
            if isinstance(key, ScalarNode):
                yield key, self.node(item, child(path, key.text), depth)

    def _scalar(self, value: Any, path: str) -> Node:
        if isinstance(value, str):
            return self._text(value, path)
        if value is None:
            return ScalarNode("null", "null", True, NOWHERE)
        if isinstance(value, bool):
            return ScalarNode(str(value).lower(), "bool", True, NOWHERE)
        if isinstance(value, int) and value.bit_length() < 256:
            return ScalarNode(str(value), "int", True, NOWHERE)
        if isinstance(value, float):
            # Written out: durations have no exponent.
            return ScalarNode(format(Decimal(repr(value)), "f"), "float", True, NOWHERE)
        return self._refused(path, f"a value of type {type(value).__name__}", "JSON values")

    def _text(self, value: str, path: str) -> Node:
        if len(value) > _MAX_TEXT:
            found = f"a value of {len(value)} characters"
            return self._refused(path, found, f"at most {_MAX_TEXT}")
        try:
            value.encode()
        except UnicodeEncodeError:
            return self._refused(path, quoted(value), "text that UTF-8 can hold")
        return ScalarNode(value, "str", False, NOWHERE)

    def _refused(self, path: str, found: str, allowed: str) -> RefusedNode:
        self._report.add(NOWHERE, path, found, allowed)
        return RefusedNode(NOWHERE)
