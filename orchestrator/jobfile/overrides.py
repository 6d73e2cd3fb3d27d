"""`--set PATH=VALUE`: values put into a document before it is validated."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.jobfile.nodes import MAX_BYTES, MapNode, Node, RefusedNode, ScalarNode
from orchestrator.jobfile.problems import NOWHERE, Place, Report, quoted
from orchestrator.jobfile.reading import read
from orchestrator.jobfile.traps import found

_MOST = 1000


def apply(root: MapNode, overrides: Sequence[str], report: Report) -> MapNode:
    """`root` with each override in place; a later one wins. Mistakes name the override."""
    length = sum(map(len, overrides))
    if len(overrides) > _MOST or length > MAX_BYTES:
        found = f"{len(overrides)} overrides of {length} characters"
        report.add(NOWHERE, "", found, f"at most {_MOST}, of {MAX_BYTES} characters in all")
        return root
    for override in overrides:
        path, equals, text = override.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            place = Place(override=override)
            hint = "for example resources.ranks=4"
            report.add(place, "", quoted(override), "PATH=VALUE", hint)
            continue
        root = _put(root, names, _value(text, override, report), override, report)
    return root


def _value(text: str, override: str, report: Report) -> Node:
    place = Place(override=override)
    problems = Report()
    node = read(text, problems, override)
    report.extend(problems)
    if node is not None:
        return node
    return RefusedNode(place) if problems else ScalarNode("", "null", True, place)


def _put(section: MapNode, names: list[str], value: Node, override: str, report: Report) -> MapNode:
    """`section` with `value` at the end of the way `names`; missing sections are made."""
    place = Place(override=override)
    name, *rest = names
    old = next((node for key, node in section.entries if key.text == name), None)
    if rest:
        inner = _section(old, place)
        if inner is None:
            assert old is not None
            hint = f"{name} is not a section"
            report.add(place, ".".join(names), found(old), "a mapping (key: value)", hint)
            return section
        value = _put(inner, rest, value, override, report)
    key = ScalarNode(name, "str", True, place)
    if old is None:
        return MapNode((*section.entries, (key, value)), section.place)
    # The path keeps the file's place unless the whole value comes from the override.
    entries = tuple(
        (known if rest else key, value) if known.text == name else (known, node)
        for known, node in section.entries
    )
    return MapNode(entries, section.place)


def _section(node: Node | None, place: Place) -> MapNode | None:
    """The section to put a value into: a new one where there is none or an empty one."""
    if node is None or (isinstance(node, ScalarNode) and node.kind == "null"):
        return MapNode((), place)
    return node if isinstance(node, MapNode) else None
