"""What is wrong with a job file: every mistake with its place, collected before anything stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_REPORTED = 100
_SHOWN = 80


class Place(NamedTuple):
    """Where a value stands: line and column from 1, or the override that it came with."""

    line: int | None = None
    column: int | None = None
    override: str | None = None


NOWHERE = Place()


@dataclass(frozen=True)
class Problem:
    """One mistake: the field's path, what was found there, what is allowed, what may help."""

    line: int | None
    column: int | None
    path: str
    found: str
    allowed: str
    hint: str = ""
    override: str | None = None

    def describe(self, file: str) -> str:
        """The problem as one line of text that starts with its place in `file`."""
        return f"{self._where(file)}: {self}"

    def _where(self, file: str) -> str:
        if self.override is not None:
            return f"--set {visible(shortened(self.override))}"
        return visible(file) if self.line is None else f"{visible(file)}:{self.line}"

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{path}found {self.found}, allowed: {self.allowed}{hint}"


class JobFileError(ValueError):
    """A job file that cannot be used. `str()` is one line for each problem, in file order."""

    def __init__(self, file: str, problems: tuple[Problem, ...], dropped: int = 0) -> None:
        super().__init__(file, problems, dropped)
        self.file = file
        self.problems = problems
        self.dropped = dropped

    def __str__(self) -> str:
        lines = [problem.describe(self.file) for problem in self.problems]
        if self.dropped:
            lines.append(f"{visible(self.file)}: and {self.dropped} more problems")
        return "\n".join(lines)


class Report:
    """Collects problems, up to a number that a person can still read, and places of fields.

    `homes` names the path of every field by its last word, for keys that stand elsewhere.
    """

    def __init__(self, homes: Mapping[str, str] | None = None) -> None:
        self.homes = homes or {}
        self.places: dict[str, Place] = {}
        self._problems: list[Problem] = []
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._problems)

    def add(
        self, place: Place, path: str, found: str, allowed: str, hint: str | Callable[[], str] = ""
    ) -> None:
        """Note a problem; a callable hint is worked out only if the problem will be shown."""
        if len(self._problems) >= _REPORTED:
            self._dropped += 1
            return
        text = hint() if callable(hint) else hint
        override = place.override
        if override is not None:  # as it was given, but for what no answer can hold
            override = override.encode(errors="backslashreplace").decode()
        self._problems.append(
            Problem(
                place.line,
                place.column,
                visible(path),
                visible(found),
                visible(allowed),
                visible(text),
                override,
            )
        )

    def extend(self, other: Report) -> None:
        """Take over what another report has noted."""
        room = _REPORTED - len(self._problems)
        self._problems += other._problems[:room]
        self._dropped += other._dropped + len(other._problems[room:])

    def error(self, file: str) -> JobFileError:
        """All that was noted, in the order of the file, overrides last."""
        return JobFileError(file, tuple(sorted(self._problems, key=_order)), self._dropped)


def _order(problem: Problem) -> tuple[bool, int, int]:
    return problem.override is not None, problem.line or 0, problem.column or 0


def shortened(text: str) -> str:
    """`text` as it is, or its beginning if it is too long for a message."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def visible(text: str) -> str:
    """`text` with what cannot be printed escaped: it fits into one line, and into UTF-8."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def quoted(text: str) -> str:
    """`text` in quotes, control characters escaped, cut to a readable length."""
    return repr(shortened(text))


def in_words(alternatives: tuple[str, ...]) -> str:
    """'a, b or c'."""
    *others, last = alternatives
    return f"{', '.join(others)} or {last}" if others else last
