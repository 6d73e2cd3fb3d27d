"""A file's bytes and the JSON object in them, within bounds; whatever is wrong is a finding."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from cluster.rank_table.findings import Findings
from cluster.rank_table.quoting import shown

BYTES = 16 << 20
OBJECTS = 150_000
DEPTH = 10
"""A table of version 2.0, the deepest, has eight levels."""

_MARK = b"\xef\xbb\xbf"
_TRAILING = re.compile(r"\s*,\s*[\]}]")
_DIGITS = 20
"""Integers with more are read as floats: none is a number of a table."""


class _Twice(dict[str, Any]):
    """An object that had a field twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs)
        self.names = [name for name, number in counts.items() if number > 1]


def content(path: str | Path, findings: Findings) -> bytes | None:
    """The bytes of a regular file; never waits for a pipe."""
    try:
        # Without O_NONBLOCK a pipe would wait for its writer.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                findings.add("RT001", "", "not a regular file")
                return None
            return file.read(BYTES + 1)
    except OSError as error:
        findings.add("RT001", "", error.strerror or type(error).__name__)
    except ValueError as error:
        findings.add("RT001", "", str(error))
    return None


def document(text: bytes, findings: Findings) -> dict[str, Any] | None:
    """The JSON object that a file holds."""
    if len(text) > BYTES:
        findings.add("RT002", "", f"more than {BYTES >> 20} MiB")
    elif (number := text.count(b"{") + text.count(b"[")) > OBJECTS:
        findings.add("RT002", "", f"{number} objects and lists")
    else:
        if text.startswith(_MARK):
            findings.add("RT004", "", "the bytes EF BB BF")
        return _decoded(text.removeprefix(_MARK), findings)
    return None


def _decoded(text: bytes, findings: Findings) -> dict[str, Any] | None:
    try:
        return _parsed(text.decode(), findings)
    except UnicodeDecodeError as error:
        findings.add("RT003", "", f"byte {text[error.start]:#04x} at offset {error.start}")
    return None


def _parsed(text: str, findings: Findings) -> dict[str, Any] | None:
    twice: list[_Twice] = []

    def built(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        plain = dict(pairs)
        if len(plain) == len(pairs):
            return plain
        twice.append(_Twice(pairs))
        return twice[-1]

    try:
        value = json.loads(
            text, object_pairs_hook=built, parse_constant=_refuse, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        code = "RT006" if _is_trailing_comma(text, error.pos) else "RT005"
        findings.add(code, "", f"line {error.lineno} column {error.colno}: {error.msg}")
    except ValueError as error:
        findings.add("RT005", "", str(error))
    except RecursionError:
        findings.add("RT008", "", f"more than {DEPTH} levels")
    else:
        return _bounded(value, twice, findings)
    return None


def _bounded(value: object, twice: list[_Twice], findings: Findings) -> dict[str, Any] | None:
    """The value, if it is an object that is not too deep."""
    if _is_deep(value):
        findings.add("RT008", "", f"more than {DEPTH} levels")
        return None
    if twice:
        findings.extend(("RT007", path, shown(name)) for path, name in _twice(value, ""))
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        findings.add("RT101", "", kind)
        return None
    return value


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(inner, dict | list) for inner in level)


def _twice(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Places of objects that had fields twice, with the fields' names."""
    if isinstance(value, _Twice):
        yield from ((path, name) for name in value.names)
    if isinstance(value, dict):
        for name, inner in value.items():
            part = name if name.isidentifier() else shown(name)
            yield from _twice(inner, f"{path}.{part}" if path else part)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _twice(inner, f"{path}[{number}]")


def _is_trailing_comma(text: str, position: int) -> bool:
    before = text[:position].rstrip()
    return _TRAILING.match(text, len(before) - before.endswith(",")) is not None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)
