"""A bounded, line-keeping reader of safe YAML.

It never constructs objects: a document becomes nodes. Aliases, depth, number and length of values
are refused before they are followed. PyYAML's own scanner, slow and careful, says what is wrong;
`quick` takes the files in which nothing is.
"""

from __future__ import annotations

from typing import Any

import yaml

from orchestrator.jobfile import quick
from orchestrator.jobfile.nodes import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_TEXT,
    ListNode,
    MapNode,
    Node,
    RefusedNode,
    ScalarNode,
    child,
)
from orchestrator.jobfile.problems import NOWHERE, Place, Report, quoted, shortened

_CORE = "tag:yaml.org,2002:"
_SCALAR_KINDS = frozenset({"str", "int", "float", "bool", "null", "timestamp"})
# YAML 1.1 gives a plain `<<` and `=` tags of their own; here they are only text.
_IMPLICIT_TEXT = frozenset({_CORE + "merge", _CORE + "value"})
_ALIAS = "alias"


class _Refused(Exception):
    """The document breaks a bound: reading stops."""

    def __init__(self, mark: yaml.Mark, found: str, allowed: str) -> None:
        super().__init__(found)
        self.mark, self.found, self.allowed = mark, found, allowed


class _Loader(yaml.SafeLoader):
    """Composes nodes; aliases become marked placeholders, bounds are checked on the way."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.anchored: list[tuple[yaml.Mark, str]] = []
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        start, anchor = event.start_mark, event.anchor
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Refused(start, f"more than {MAX_NODES} values", f"{MAX_NODES}")
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode(_ALIAS, anchor, start, start)
        if anchor is not None:
            self.anchored.append((start, anchor))
            event.anchor = None
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_TEXT:
            found = f"a value of {len(event.value)} characters"
            raise _Refused(start, found, f"at most {MAX_TEXT}")
        if self._depth >= MAX_DEPTH:
            raise _Refused(start, "deeper nesting", f"{MAX_DEPTH} levels")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def read(text: str, report: Report, override: str | None = None) -> Node | None:
    """The only document of `text`; None if it is empty or if a reported problem hides it.

    Places are lines and columns, or `override` where it is given.
    """
    try:
        return quick.read(text, override)
    except quick.Doubt:
        return careful(text, report, override)


def careful(text: str, report: Report, override: str | None = None) -> Node | None:
    """What `read` does, without libyaml."""
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except _Refused as refused:
        report.add(_place(refused.mark, override), "", refused.found, refused.allowed)
        return None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        _report_syntax(error, _error_place(error, text, override), report)
        return None
    finally:
        if loader is not None:
            loader.dispose()
    for mark, anchor in loader.anchored:
        _refuse(report, _place(mark, override), "", f"the anchor &{shortened(anchor)}")
    return None if root is None else _Converter(report, override).convert(root, "")


def _refuse(report: Report, place: Place, path: str, found: str) -> RefusedNode:
    report.add(place, path, found, "values written out", "anchors and aliases are not read")
    return RefusedNode(place)


def _place(mark: yaml.Mark | None, override: str | None) -> Place:
    if override is not None:
        return Place(override=override)
    return NOWHERE if mark is None else Place(mark.line + 1, mark.column + 1)


def _error_place(error: Exception, text: str, override: str | None) -> Place:
    position = getattr(error, "position", None)
    if override is None and isinstance(position, int):
        return Place(text.count("\n", 0, position) + 1)
    return _place(getattr(error, "problem_mark", None), override)


def _report_syntax(error: Exception, place: Place, report: Report) -> None:
    context = getattr(error, "context", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if "another document" in said or "document start" in said:
        report.add(place, "", "a second document", "one document", "give each job its own file")
    elif "'\\t'" in said:
        report.add(place, "", "a tab", "spaces for indentation")
    else:
        while_doing = f"it was met {shortened(context)}" if context else ""
        report.add(place, "", shortened(said.removeprefix("found ")), "YAML", while_doing)


class _Converter:
    """Turns composed nodes into ours; duplicate keys and foreign tags are problems."""

    def __init__(self, report: Report, override: str | None) -> None:
        self._report = report
        self._override = override

    def convert(self, node: yaml.Node, path: str) -> Node:
        place = _place(node.start_mark, self._override)
        if node.tag == _ALIAS:
            return _refuse(self._report, place, path, f"the alias *{shortened(node.value)}")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, place)
        if node.tag not in (_CORE + "map", _CORE + "seq"):
            return self._foreign(node, path, place)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, place)
        items = (self.convert(item, f"{path}[{i}]") for i, item in enumerate(node.value))
        return ListNode(tuple(items), place)

    def _scalar(self, node: yaml.ScalarNode, path: str, place: Place) -> Node:
        plain = node.style is None
        kind = node.tag.removeprefix(_CORE)
        if plain and node.tag in _IMPLICIT_TEXT:
            kind = "str"
        if kind not in _SCALAR_KINDS:
            return self._foreign(node, path, place)
        if not _encodable(node.value):
            self._report.add(place, path, quoted(node.value), "text that UTF-8 can hold")
            return RefusedNode(place)
        return ScalarNode(node.value, kind, plain, place)

    def _foreign(self, node: yaml.Node, path: str, place: Place) -> RefusedNode:
        self._report.add(place, path, f"the tag {shortened(node.tag)}", "values without tags")
        return RefusedNode(place)

    def _mapping(self, node: yaml.MappingNode, path: str, place: Place) -> MapNode:
        seen: dict[str, Place] = {}
        entries = []
        for key_node, value_node in node.value:
            key = self.convert(key_node, path)
            if not isinstance(key, ScalarNode):
                if not isinstance(key, RefusedNode):
                    self._report.add(key.place, path, "a key that is not text", "a name as key")
                continue
            under = child(path, key.text)
            if key.text in seen:
                line = seen[key.text].line
                hint = "" if line is None else f"it stands in line {line} already"
                self._report.add(key.place, under, "the key again", "each key once", hint)
                continue
            seen[key.text] = key.place
            entries.append((key, self.convert(value_node, under)))
        return MapNode(tuple(entries), place)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
