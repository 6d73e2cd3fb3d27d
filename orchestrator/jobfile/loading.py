"""From a file, a text or a stored document to a `JobSpec`, or to every problem at once."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.jobfile.build import build
from orchestrator.jobfile.combinations import Draft, check
from orchestrator.jobfile.document import nodes_of
from orchestrator.jobfile.nodes import MAX_BYTES, ListNode, MapNode, Node
from orchestrator.jobfile.overrides import apply
from orchestrator.jobfile.problems import NOWHERE, JobFileError, Place, Report
from orchestrator.jobfile.reading import read
from orchestrator.jobfile.schema import HOMES, JOB
from orchestrator.jobfile.traps import found
from orchestrator.spec import JobSpec


def load(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    cwd: str | os.PathLike[str] | None = None,
) -> JobSpec:
    """The job that a file describes, with `PATH=VALUE` overrides put in first.

    `cwd` is where relative paths start (the current directory). Raises JobFileError, which
    also says why a file cannot be read.
    """
    file = os.fspath(path)
    return _load(text_of(file), file, overrides, cwd)


def loads(
    text: str,
    overrides: Sequence[str] = (),
    cwd: str | os.PathLike[str] | None = None,
    *,
    file: str = "<text>",
) -> JobSpec:
    """The job that a text describes; `file` is its name in messages. Raises JobFileError."""
    if len(text) > MAX_BYTES:
        raise _unreadable(file, f"{len(text)} characters", f"at most {MAX_BYTES}")
    return _load(text, file, overrides, cwd)


def from_document(
    document: Mapping[str, Any], *, file: str = "<document>", surroundings: bool = True
) -> JobSpec:
    """The job that `spec.to_document` wrote down, checked once more. Raises JobFileError.

    `surroundings`: what it names on disk must be there still; a job that runs is known anyway.
    """
    report = Report(HOMES)
    fields = dict(document) if isinstance(document, Mapping) else document
    given = fields.pop("given", []) if isinstance(fields, dict) else []
    if not isinstance(given, list) or not all(isinstance(path, str) for path in given):
        report.add(NOWHERE, "given", "something else", "a list of the fields that were given")
    spec = _spec(nodes_of(fields, report), (), report, file, None, surroundings=surroundings)
    return replace(spec, given=frozenset(given))


def _load(
    text: str, file: str, overrides: Sequence[str], cwd: str | os.PathLike[str] | None
) -> JobSpec:
    report = Report(HOMES)
    return _spec(read(text, report), overrides, report, file, cwd)


def _spec(
    node: Node | None,
    overrides: Sequence[str],
    report: Report,
    file: str,
    cwd: str | os.PathLike[str] | None,
    *,
    surroundings: bool = True,
) -> JobSpec:
    root = _root(node, overrides, report)
    if root is None:
        raise report.error(file)
    report.places[""] = root.place
    values = JOB.read(root, "", report)
    draft = Draft(values, report.places, Path.cwd() if cwd is None else Path(cwd).absolute())
    check(draft, report, surroundings=surroundings)
    if report:
        raise report.error(file)
    return build(draft)


def _root(node: Node | None, overrides: Sequence[str], report: Report) -> MapNode | None:
    if isinstance(node, MapNode):
        return apply(node, overrides, report)
    if not report:
        place, what = (NOWHERE, "an empty file") if node is None else (node.place, found(node))
        hint = "a list of jobs is not read" if isinstance(node, ListNode) else ""
        report.add(place, "", what, "a mapping with the fields of a job", hint)
    return None


def text_of(file: str) -> str:
    """The text of a small YAML file. Raises JobFileError, which says why it cannot be read."""
    try:
        status = os.stat(file)
        # A pipe or a device could block the reader for ever.
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "something else"
            raise _unreadable(file, kind, "a file")
        with open(file, "rb") as source:
            raw = source.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, JobFileError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise _unreadable(file, f"no readable file ({reason})", "a file") from error
    if len(raw) > MAX_BYTES:
        raise _unreadable(file, "a larger file", f"at most {MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unreadable(file, f"the byte 0x{raw[error.start]:02x}", "UTF-8", line) from error


def _unreadable(file: str, what: str, allowed: str, line: int | None = None) -> JobFileError:
    report = Report()
    report.add(Place(line), "", what, allowed)
    return report.error(file)
