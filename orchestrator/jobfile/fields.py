"""Kinds of single values: each reads one node, or reports what is wrong and gives MISSING."""

from __future__ import annotations

import enum
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol

from orchestrator.jobfile.nodes import Node, RefusedNode, ScalarNode
from orchestrator.jobfile.problems import Report, in_words
from orchestrator.jobfile.traps import (
    as_text_hint,
    found,
    same_number,
    survives_as_number,
    trap,
)
from orchestrator.jobfile.units import LONGEST, parse_duration, parse_size


class Missing(enum.Enum):
    """The one value that stands for a field without a usable value."""

    MISSING = enum.auto()


MISSING = Missing.MISSING

_CLOCK = re.compile(r"(\d{1,4}):(\d\d)", re.ASCII)
_DECIMAL_SIZE = re.compile(r"(\d+)\s*([KMGT])i?B?", re.ASCII | re.IGNORECASE)
_WITH_EXPONENT = re.compile(r"\d{1,9}(\.\d{0,9})?[eE]\+?\d\d?", re.ASCII)
_MAX_SIZE = 1 << 60
_MAX_PATTERN = 1000
_LONGEST_NAME = 64
_SPELLED = {"one": 1, "two": 2, "four": 4, "eight": 8, "sixteen": 16}


class Kind(Protocol):
    """How a value is read."""

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The value, or MISSING after a problem was reported."""

    def describe(self) -> str:
        """What is allowed, in words."""


@dataclass(frozen=True, kw_only=True)
class _Scalar:
    """A single value; `words` are texts that stand for a value of their own."""

    words: Mapping[str, object] = field(default_factory=dict)

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The value, or MISSING after a problem was reported."""
        if isinstance(node, RefusedNode):
            return MISSING
        if isinstance(node, ScalarNode):
            if node.kind == "str" and node.text in self.words:
                return self.words[node.text]
            value = self.value(node)
            if value is not MISSING:
                return value
        report.add(node.place, path, found(node), self.describe(), lambda: self.hint(node))
        return MISSING

    def describe(self) -> str:
        """What is allowed, in words."""
        return in_words((*self.words, *filter(None, (self.allowed,))))

    @property
    def allowed(self) -> str:
        """What is allowed besides `words`."""
        return ""

    def value(self, node: ScalarNode) -> Any:
        """The value that the node stands for, or MISSING."""
        return MISSING

    def hint(self, node: Node) -> str:
        """What may help, or nothing."""
        return trap(node)


@dataclass(frozen=True, kw_only=True)
class Integer(_Scalar):
    """A whole number within bounds, written plainly in decimal."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        """The range, or the only number."""
        return f"integer {self.low}..{self.high}" if self.low < self.high else str(self.low)

    def value(self, node: ScalarNode) -> Any:
        """The number."""
        if node.kind != "int" or not same_number(node):
            return MISSING
        number = int(node.text)
        return number if self.low <= number <= self.high else MISSING

    def hint(self, node: Node) -> str:
        """What was probably meant."""
        if not isinstance(node, ScalarNode) or node.kind != "str":
            return trap(node)
        if not node.plain and node.text.isdecimal():
            return f"write {node.text[:20]} without quotes"
        if node.text.lower() in _SPELLED:
            return f"did you mean {_SPELLED[node.text.lower()]}?"
        if _WITH_EXPONENT.fullmatch(node.text):
            return f"write {int(float(node.text))}, without an exponent"
        return trap(node) or did_you_mean(node.text, tuple(self.words))


@dataclass(frozen=True, kw_only=True)
class Number(_Scalar):
    """A finite number within bounds."""

    low: float
    high: float

    @property
    def allowed(self) -> str:
        """The range."""
        return f"number {self.low:g}..{self.high:g}"

    def value(self, node: ScalarNode) -> Any:
        """The number as float."""
        if not same_number(node):
            return MISSING
        number = float(node.text)
        return number if self.low <= number <= self.high else MISSING


@dataclass(frozen=True, kw_only=True)
class Duration(_Scalar):
    """A length of time in seconds, at most ten years."""

    low: float = 0.001

    @property
    def allowed(self) -> str:
        """The forms, and the least that is meant."""
        least = "" if self.low else ", also 0"
        return f"a duration such as 90, 10m or 1h30m (at most 10 years{least})"

    def value(self, node: ScalarNode) -> Any:
        """The duration in seconds."""
        if node.kind != "str" and not same_number(node):
            return MISSING
        seconds = parse_duration(node.text)
        if seconds is None or not self.low <= seconds <= LONGEST:
            return MISSING
        return seconds

    def hint(self, node: Node) -> str:
        """The clock's way of writing in ours."""
        if isinstance(node, ScalarNode) and (clock := _CLOCK.fullmatch(node.text)):
            return f"write {clock[1]}h{clock[2]}m or {clock[1]}m{clock[2]}s"
        return trap(node)


@dataclass(frozen=True, kw_only=True)
class Size(_Scalar):
    """A number of bytes."""

    @property
    def allowed(self) -> str:
        """The forms."""
        return "a size such as 512Mi, 4Gi or a number of bytes"

    def value(self, node: ScalarNode) -> Any:
        """The size in bytes."""
        if node.kind != "str" and not same_number(node):
            return MISSING
        size = parse_size(node.text)
        return size if size is not None and 0 < size <= _MAX_SIZE else MISSING

    def hint(self, node: Node) -> str:
        """The binary unit for a decimal one."""
        if isinstance(node, ScalarNode) and (match := _DECIMAL_SIZE.fullmatch(node.text)):
            return f"did you mean {match[1][:20]}{match[2].upper()}i?"
        return trap(node)


@dataclass(frozen=True, kw_only=True)
class Flag(_Scalar):
    """Yes or no."""

    @property
    def allowed(self) -> str:
        """How they are written."""
        return "true or false"

    def value(self, node: ScalarNode) -> Any:
        """Which of them."""
        fits = node.kind == "bool" and node.text.lower() in ("true", "false")
        return node.text.lower() == "true" if fits else MISSING

    def hint(self, node: Node) -> str:
        """What was probably meant."""
        if isinstance(node, ScalarNode) and node.text.lower() in ("true", "false"):
            return f"write {node.text.lower()} without quotes"
        return trap(node)


@dataclass(frozen=True, kw_only=True)
class Choice(_Scalar):
    """One of `words`; `meant` are other names that people give to them."""

    meant: Mapping[str, str] = field(default_factory=dict)

    def hint(self, node: Node) -> str:
        """The one that was meant, or the nearest."""
        text = node.text if isinstance(node, ScalarNode) else ""
        if text.lower() in self.meant:
            return f"did you mean {self.meant[text.lower()]}?"
        return did_you_mean(text, tuple(self.words)) or trap(node)


def one_of(members: type[enum.Enum], meant: Mapping[str, str] | None = None) -> Choice:
    """A choice between the members of an enumeration, named by their values."""
    return Choice(words={member.value: member for member in members}, meant=meant or {})


@dataclass(frozen=True, kw_only=True)
class Text(_Scalar):
    """One line of text that matches a pattern."""

    called: str
    pattern: str = r".+"

    @property
    def allowed(self) -> str:
        """What the text is."""
        return self.called

    def value(self, node: ScalarNode) -> Any:
        """The text."""
        fits = node.kind == "str" and is_line(node.text)
        return node.text if fits and re.fullmatch(self.pattern, node.text) else MISSING

    def hint(self, node: Node) -> str:
        """Quotes for what YAML takes for something else."""
        return as_text_hint(node)


@dataclass(frozen=True, kw_only=True)
class Pattern(_Scalar):
    """A regular expression of Python's `re`."""

    @property
    def allowed(self) -> str:
        """What the text is."""
        return f"a regular expression of at most {_MAX_PATTERN} characters"

    def value(self, node: ScalarNode) -> Any:
        """The expression, which compiles."""
        short = node.kind == "str" and 0 < len(node.text) <= _MAX_PATTERN and is_line(node.text)
        return node.text if short and not _pattern_error(node.text) else MISSING

    def hint(self, node: Node) -> str:
        """Why it does not compile."""
        if isinstance(node, ScalarNode) and node.kind == "str" and len(node.text) <= _MAX_PATTERN:
            return _pattern_error(node.text)
        return as_text_hint(node)


@dataclass(frozen=True, kw_only=True)
class Argument(_Scalar):
    """A value for a command line: text, number or true/false, passed on as it is written."""

    @property
    def allowed(self) -> str:
        """What can be passed on."""
        return "one line of text, a number, true or false"

    def value(self, node: ScalarNode) -> Any:
        """The text as it is written."""
        return node.text if self._passes(node) else MISSING

    def _passes(self, node: ScalarNode) -> bool:
        if node.kind == "bool":
            return node.text.lower() in ("true", "false")
        return same_number(node) or (node.kind == "str" and is_line(node.text))

    def hint(self, node: Node) -> str:
        """How to write what was probably meant."""
        if isinstance(node, ScalarNode) and node.kind == "null":
            return "write '' for an empty value, or leave it out"
        return as_text_hint(node)


@dataclass(frozen=True, kw_only=True)
class Setting(_Scalar):
    """Text for an environment variable or a label; plain numbers stand for their text."""

    @property
    def allowed(self) -> str:
        """What is text."""
        return "one line of text"

    def value(self, node: ScalarNode) -> Any:
        """The text."""
        fits = survives_as_number(node) or (node.kind == "str" and is_line(node.text))
        return node.text if fits else MISSING

    def hint(self, node: Node) -> str:
        """How to write what was probably meant."""
        if isinstance(node, ScalarNode) and node.kind == "null":
            return "write '' for an empty value, or leave it out"
        if isinstance(node, ScalarNode) and node.kind == "bool":
            return trap(node) or f'put it in quotes: "{node.text}"'
        return as_text_hint(node)


def is_line(text: str) -> bool:
    """Whether the text can stand in argv, environment or a path: no NUL, no line break."""
    return not any(character in text for character in "\0\n\r")


def _pattern_error(text: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        return f"it does not compile: {error}"
    return ""


def did_you_mean(text: str, names: tuple[str, ...]) -> str:
    """A question with the name most like `text`; empty if none is like it."""
    if len(text) > _LONGEST_NAME:
        return ""
    near = next(iter(get_close_matches(text.lower(), names, n=1)), None)
    return f"did you mean {near}?" if near else ""
