"""The quick reader: libyaml's events become nodes, for files that nobody objects to.

It has no messages. Whatever it doubts, the careful reader (`reading`) reads from the beginning and
says what is to be said, so that a file means the same, and its mistakes are told the same, whether
libyaml is there or not. Doubtful is all that is refused, and all that the two are known to read
differently.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from orchestrator.jobfile.nodes import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_TEXT,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
)
from orchestrator.jobfile.problems import Place

_CORE = "tag:yaml.org,2002:"
KINDS = {_CORE + kind: kind for kind in ("str", "int", "float", "bool", "null", "timestamp")}
# YAML 1.1 gives a plain `<<` and `=` tags of their own; here they are only text.
KINDS |= {_CORE + "merge": "str", _CORE + "value": "str"}
"""What a plain value is taken for, by the tag that YAML 1.1 gives it."""

_RESOLVERS = yaml.SafeLoader.yaml_implicit_resolvers
# Tabs, other control characters, foreign line breaks; question marks, which one reader takes for
# keys where the other sees text.
_DOUBTFUL = re.compile(
    r"[^\n !->@-~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_COMMENT_AT_BLOCK = re.compile(r"[|>][-+0-9]*#")
_DIRECTIVE = "\n%"


class Doubt(Exception):
    """The careful reader has to read this."""


def read(text: str, override: str | None = None) -> Node:
    """The only document of `text`. Raises Doubt."""
    loader: Any = getattr(yaml, "CSafeLoader", None)
    if loader is None or _doubtful(text):
        raise Doubt
    try:
        return _Reader(loader(text).get_event, override).document()
    except (yaml.YAMLError, ValueError) as error:
        raise Doubt from error


def _doubtful(text: str) -> bool:
    if _DIRECTIVE in text or text.startswith(_DIRECTIVE[1:]):
        return True
    return bool(_DOUBTFUL.search(text) or _COMMENT_AT_BLOCK.search(text))


class _Reader:
    """Reads the events of one document."""

    def __init__(self, next_event: Any, override: str | None) -> None:
        self._next = next_event
        self._elsewhere = None if override is None else Place(override=override)
        self._nodes = 0

    def document(self) -> Node:
        self._expect(yaml.StreamStartEvent)
        self._expect(yaml.DocumentStartEvent)
        root = self._node(self._next(), 1)
        self._expect(yaml.DocumentEndEvent)
        self._expect(yaml.StreamEndEvent)
        return root

    def _expect(self, kind: type[yaml.Event]) -> None:
        if type(self._next()) is not kind:
            raise Doubt

    def _node(self, event: Any, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise Doubt
        if type(event) is yaml.ScalarEvent:
            return self._scalar(event)
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            raise Doubt
        if type(event) is yaml.MappingStartEvent:
            return self._mapping(event, depth + 1)
        items = []
        while type(inner := self._next()) is not yaml.SequenceEndEvent:
            items.append(self._node(inner, depth + 1))
        return ListNode(tuple(items), self._place(event))

    def _mapping(self, event: Any, depth: int) -> MapNode:
        entries: dict[str, tuple[ScalarNode, Node]] = {}
        while type(inner := self._next()) is not yaml.MappingEndEvent:
            key = self._node(inner, depth)
            if not isinstance(key, ScalarNode) or key.text in entries:
                raise Doubt
            entries[key.text] = key, self._node(self._next(), depth)
        return MapNode(tuple(entries.values()), self._place(event))

    def _scalar(self, event: Any) -> ScalarNode:
        text = event.value
        plain = not event.style
        # Where nothing stands, the two readers do not agree on its place.
        doubtful = plain and not text
        if doubtful or event.anchor is not None or event.tag is not None or len(text) > MAX_TEXT:
            raise Doubt
        return ScalarNode(text, _kind(text) if plain else "str", plain, self._place(event))

    def _place(self, event: Any) -> Place:
        if self._elsewhere is not None:
            return self._elsewhere
        mark = event.start_mark
        return Place(mark.line + 1, mark.column + 1)


def _kind(text: str) -> str:
    for tag, looks in _RESOLVERS.get(text[0], ()):
        if looks.match(text):
            return KINDS[tag]
    return "str"
