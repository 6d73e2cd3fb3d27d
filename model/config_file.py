"""A configuration file: up to three YAML documents of `name: value`, as the original has them.

The first holds values, the second a text about each parameter, the third the values that may be
chosen. No object is ever made of the YAML: values stay as they are written, with their line, and
are read by their type in `model.arguments`, just as on the command line. Size, depth and number of
values are bounded; aliases, tags and keys that stand twice are refused.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from model.origin import printable, shortened

MAX_BYTES = 1 << 18
MAX_VALUES = 10_000
MAX_DEPTH = 5  # document, choices, list, pair, number
DOCUMENTS = ("values", "texts", "choices")

_ALIAS = "alias"
_CORE = "tag:yaml.org,2002:"
_SCALARS = {f"{_CORE}{kind}" for kind in ("str", "int", "float", "bool", "timestamp")}
# YAML 1.1 gives a plain `<<` and `=` tags of their own; here they are only text.
_TEXTS = _SCALARS | {_CORE + "merge", _CORE + "value"}
# What YAML 1.1 takes for another number than a person does, and what to say about it.
_TRAPS = (
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
     "YAML reads a number to base 60 here; write it in decimal"),
    (re.compile(r"[-+]?0[0-9_]+"), "YAML reads octal here; leave the leading zeros out"),
    (re.compile(r"[-+]?0[bx][0-9a-fA-F_]+"), "write the number in decimal"),
)  # fmt: skip


@dataclass(frozen=True)
class Scalar:
    """A single value as written; `trap`: why it is no number, though it looks like one."""

    text: str
    trap: str = ""


Tree: TypeAlias = Scalar | tuple["Tree", ...]

REFUSED = Scalar("", "refused")
"""Stands for a value that has been complained of already."""


@dataclass(frozen=True)
class Entry:
    """What a file says of one parameter, and in which line."""

    tree: Tree
    line: int


@dataclass(frozen=True)
class ConfigFile:
    """The documents of a file by name of parameter, and everything that is wrong with it."""

    name: str
    values: dict[str, Entry] = field(default_factory=dict)
    texts: dict[str, Entry] = field(default_factory=dict)
    choices: dict[str, Entry] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def scalars(tree: Tree) -> Iterator[Scalar]:
    """Every single value in `tree`, in order."""
    if isinstance(tree, Scalar):
        yield tree
    else:
        for item in tree:
            yield from scalars(item)


def read_file(path: str) -> ConfigFile:
    """Read the file at `path`, relative to the working directory. Never raises."""
    name = printable(path)
    try:
        content = _content(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return ConfigFile(name, problems=(f"--config_path={name}: {reason}",))
    reader = _Reader(name)
    documents = dict(zip(DOCUMENTS, reader.documents(content), strict=False))
    return ConfigFile(name, **documents, problems=tuple(reader.problems))


def _content(path: Path) -> bytes:
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to must not hold all ranks."""
    return os.open(path, flags | os.O_NONBLOCK)


class _Refused(Exception):
    """A bound is broken: reading stops."""

    def __init__(self, mark: yaml.Mark, said: str) -> None:
        super().__init__(said)
        self.problem_mark = mark


class _Loader(yaml.SafeLoader):
    """Composes nodes, never objects; checks bounds on the way and makes aliases stand out."""

    depth = values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()
        self.values += 1
        if self.values > MAX_VALUES:
            raise _Refused(event.start_mark, f"more than {MAX_VALUES} values")
        if self.depth >= MAX_DEPTH:
            raise _Refused(event.start_mark, "nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            self.get_event()
            return yaml.ScalarNode(_ALIAS, event.anchor, event.start_mark, event.end_mark)
        event.anchor = None  # nothing refers to it
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Turns composed nodes into entries and collects what is wrong."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []

    def documents(self, content: bytes) -> list[dict[str, Entry]]:
        """The entries of each document; of none after a mistake of form."""
        loader = None
        try:
            loader = _Loader(content)
            roots: list[Any] = []
            while loader.check_node():
                roots.append(loader.get_node())
        except (_Refused, yaml.YAMLError, ValueError) as error:
            self._say(_line_of(error, content), _reason(error))
            return []
        finally:
            if loader is not None:
                loader.dispose()
        for root in roots[len(DOCUMENTS) : len(DOCUMENTS) + 1]:
            said = f"{len(roots)} documents; there may be three: {', '.join(DOCUMENTS)}"
            self._say(root.start_mark.line + 1, said)
        return [self._entries(root) for root in roots[: len(DOCUMENTS)]]

    def _say(self, line: int, said: str) -> None:
        self.problems.append(f"{self.name}:{line}: {said}")

    def _entries(self, root: yaml.Node) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        if isinstance(root, yaml.ScalarNode) and root.tag == _CORE + "null":
            return entries
        if not isinstance(root, yaml.MappingNode):
            self._say(root.start_mark.line + 1, "expected lines of name: value")
            return entries
        for key, value in root.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TEXTS:
                self._say(line, "expected a name before the colon")
            elif key.value in entries:
                first = entries[key.value].line
                self._say(line, f"{shortened(key.value)} stands in line {first} already")
            else:
                entries[key.value] = Entry(self._tree(value, key.value, line), line)
        return entries

    def _tree(self, node: yaml.Node, name: str, line: int) -> Tree:
        if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
            return tuple(self._tree(item, name, line) for item in node.value)
        if isinstance(node, yaml.ScalarNode) and node.tag == _CORE + "null":
            return Scalar("")
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXTS:
            looks = [said for form, said in _TRAPS if form.fullmatch(node.value)]
            return Scalar(node.value, looks[0] if looks and node.style is None else "")
        if node.tag == _ALIAS:
            said = f"the alias *{shortened(node.value)}; write the value out"
        elif isinstance(node, yaml.MappingNode):
            said = "a section; write each parameter as name: value by itself"
        else:
            said = f"the tag {shortened(node.tag)}; write the value without it"
        self._say(line, f"{shortened(name)}: {said}")
        return REFUSED


def _line_of(error: Exception, content: bytes) -> int:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    return content.count(b"\n", 0, getattr(error, "position", 0)) + 1


def _reason(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f"not YAML that can be read: {shortened(said)}"
