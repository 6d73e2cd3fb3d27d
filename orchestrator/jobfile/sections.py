"""Kinds of composite values: sections with known keys, free mappings, lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.jobfile.fields import MISSING, Argument, Kind, did_you_mean
from orchestrator.jobfile.nodes import (
    ListNode,
    MapNode,
    Node,
    RefusedNode,
    ScalarNode,
    child,
)
from orchestrator.jobfile.problems import Report, in_words, quoted
from orchestrator.jobfile.traps import found, trap

_MAPPING = "a mapping (key: value)"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A mapping with known keys. Reads to a dictionary of the fields that are right."""

    fields: Mapping[str, Kind]
    required: tuple[str, ...] = ()

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The fields that stand there and are right; the others are reported."""
        if not isinstance(node, MapNode):
            _not_a_mapping(node, path, report)
            return MISSING
        values = {}
        for key, value_node in node.entries:
            under = child(path, key.text)
            if key.text not in self.fields:
                self._unknown(key, under, report)
                continue
            report.places[under] = key.place
            value = self.fields[key.text].read(value_node, under, report)
            if value is not MISSING:
                values[key.text] = value
        self._report_missing(node, path, report)
        return values

    def describe(self) -> str:
        """What is allowed, in words."""
        return _MAPPING

    def _unknown(self, key: ScalarNode, path: str, report: Report) -> None:
        report.add(
            key.place,
            path,
            "an unknown key",
            in_words(tuple(self.fields)),
            lambda: self._unknown_hint(key, report.homes),
        )

    def _unknown_hint(self, key: ScalarNode, homes: Mapping[str, str]) -> str:
        if key.text in homes:
            return f"its place is {homes[key.text]}"
        return trap(key) or did_you_mean(key.text, tuple(self.fields))

    def _report_missing(self, node: MapNode, path: str, report: Report) -> None:
        present = {key.text for key, _ in node.entries}
        for name in self.required:
            if name not in present:
                allowed = self.fields[name].describe()
                report.add(node.place, child(path, name), "nothing", allowed, "it is required")


@dataclass(frozen=True, kw_only=True)
class Entries:
    """A mapping with free keys and values of one kind. Reads to a dictionary."""

    values: Kind
    keys: str
    keys_called: str
    refused: Callable[[str], str] = lambda key: ""
    """Why a key that matches is refused all the same; empty if it is not."""

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The entries that are right; the others are reported."""
        if not isinstance(node, MapNode):
            _not_a_mapping(node, path, report)
            return MISSING
        values = {}
        for key, value_node in node.entries:
            under = child(path, key.text)
            report.places[under] = key.place
            if not self._usable(key, under, report):
                continue
            value = self.values.read(value_node, under, report)
            if value is not MISSING:
                values[key.text] = value
        return values

    def describe(self) -> str:
        """What is allowed, in words."""
        return _MAPPING

    def _usable(self, key: ScalarNode, path: str, report: Report) -> bool:
        if key.kind != "str" or not re.fullmatch(self.keys, key.text):
            said = f"the key {quoted(key.text)}"
            report.add(key.place, path, said, self.keys_called, lambda: trap(key))
            return False
        reason = self.refused(key.text)
        if reason:
            report.add(key.place, path, f"the key {quoted(key.text)}", "other names", reason)
        return not reason


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list with values of one kind. Reads to a tuple."""

    of: Kind
    called: str
    least: int = 0
    example: Callable[[str], str] = lambda text: f"write [{text}]"
    """What to write instead of a single text."""

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The items, if all are right."""
        if isinstance(node, RefusedNode):
            return MISSING
        if not isinstance(node, ListNode) or len(node.items) < self.least:
            said = "an empty list" if isinstance(node, ListNode) else found(node)
            report.add(node.place, path, said, self.called, lambda: self._hint(node))
            return MISSING
        values = [self.of.read(item, f"{path}[{i}]", report) for i, item in enumerate(node.items)]
        return MISSING if MISSING in values else tuple(values)

    def describe(self) -> str:
        """What is allowed, in words."""
        return self.called

    def _hint(self, node: Node) -> str:
        short = isinstance(node, ScalarNode) and node.kind == "str" and len(node.text) <= 60
        return self.example(node.text) if short and isinstance(node, ScalarNode) else ""


@dataclass(frozen=True, kw_only=True)
class Patterned(Items):
    """A list of sections with regular expressions at the key `pattern`.

    Together they are bounded before the first is compiled: a few characters can take long.
    """

    pattern: str
    most: int = 4096

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The items, if all are right."""
        sections = (item for item in getattr(node, "items", ()) if isinstance(item, MapNode))
        length = sum(
            len(value.text)
            for section in sections
            for key, value in section.entries
            if key.text == self.pattern and isinstance(value, ScalarNode)
        )
        if length <= self.most:
            return super().read(node, path, report)
        report.add(node.place, path, f"patterns of {length} characters", f"at most {self.most}")
        return MISSING


@dataclass(frozen=True, kw_only=True)
class ArgumentOrList:
    """A command-line value, or a list of them, which is joined with commas."""

    item: Argument

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The text of the value."""
        if isinstance(node, MapNode):
            hint = f"write one argument for each key, such as {path.partition('.')[2]}_name"
            report.add(node.place, path, "a mapping", self.describe(), hint)
            return MISSING
        if not isinstance(node, ListNode):
            return self.item.read(node, path, report)
        texts = [self._joinable(item, f"{path}[{i}]", report) for i, item in enumerate(node.items)]
        return MISSING if MISSING in texts else ",".join(texts)

    def describe(self) -> str:
        """What is allowed, in words."""
        return f"{self.item.describe()}, or a list"

    def _joinable(self, node: Node, path: str, report: Report) -> Any:
        text = self.item.read(node, path, report)
        if text is MISSING or "," not in text:
            return text
        hint = "write the whole list as one text"
        report.add(node.place, path, quoted(text), "a value without a comma", hint)
        return MISSING


def _not_a_mapping(node: Node, path: str, report: Report) -> None:
    if isinstance(node, RefusedNode):
        return
    empty = isinstance(node, ScalarNode) and node.kind == "null"
    hint = "leave the key out or write {}" if empty and path else ""
    report.add(node.place, path, found(node), _MAPPING, hint)
