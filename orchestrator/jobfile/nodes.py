"""What stands in a job file: scalars, lists and mappings that remember their text and their place.

What could make a small file large or a reading long is bounded: depth, number and length of values.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from orchestrator.jobfile.problems import Place, quoted, shortened

MAX_BYTES = 1 << 18
MAX_DEPTH = 20
MAX_NODES = 10_000
MAX_TEXT = 16_384


class ScalarNode(NamedTuple):
    """A single value as written. `kind`: str, int, float, bool, null or timestamp (YAML 1.1)."""

    text: str
    kind: str
    plain: bool
    place: Place


class ListNode(NamedTuple):
    """A list of values."""

    items: tuple[Node, ...]
    place: Place


class MapNode(NamedTuple):
    """A mapping with distinct scalar keys, in the order of the file."""

    entries: tuple[tuple[ScalarNode, Node], ...]
    place: Place


class RefusedNode(NamedTuple):
    """A value whose problem has been reported already; readers pass over it."""

    place: Place


Node: TypeAlias = ScalarNode | ListNode | MapNode | RefusedNode


def child(path: str, key: str) -> str:
    """The path of the field `key` in the section `path`."""
    shown = shortened(key) if key.isprintable() and key else quoted(key)
    return f"{path}.{shown}" if path else shown
