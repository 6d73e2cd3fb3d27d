"""What a check has found: findings, counted all and kept some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.rank_table.rules import RULES, Rule, Severity
from cluster.rank_table.values import Model, RankTable

KEPT = 1000
"""Findings of one rule that are kept; the rest is counted."""

Found = tuple[str, str, str]
"""The rule's code, the place in the file, what is there."""


@dataclass(frozen=True)
class Finding:
    """A broken rule: where in the file, and what was found there, both printable."""

    rule: Rule
    severity: Severity
    path: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}" if self.path else self.found


@dataclass(frozen=True)
class Checked:
    """A check's result: errors before warnings, each by code and then by place in the file.

    `counts` has all findings by code. `model` is the one judged by. `table` is what the file says,
    and None if that is in doubt; a table may be given although rules are broken.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, int]
    model: Model | None
    table: RankTable | None

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings may be."""
        return not self.errors

    @property
    def errors(self) -> int:
        """How many, those not kept too."""
        return self._count(Severity.ERROR)

    @property
    def warnings(self) -> int:
        """How many, those not kept too."""
        return self._count(Severity.WARNING)

    def _count(self, severity: Severity) -> int:
        of = {code: RULES[code].levels.of(self.model) for code in self.counts}
        return sum(number for code, number in self.counts.items() if of[code] is severity)


def joined(one: Checked, found: Iterable[Found]) -> Checked:
    """A check with further findings of other rules, in the same order."""
    further = Findings()
    further.extend(found)
    other = further.checked(one.model, one.table)
    errors = [f for f in (*one.findings, *other.findings) if f.severity is Severity.ERROR]
    warnings = [f for f in (*one.findings, *other.findings) if f.severity is Severity.WARNING]
    return Checked((*errors, *warnings), one.counts | other.counts, one.model, one.table)


class Findings:
    """Collects what is found, before it is known how severe that is."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._kept: dict[str, list[tuple[str, str]]] = {}

    def add(self, code: str, path: str, found: str) -> None:
        """Keep or count one."""
        self._counts[code] += 1
        kept = self._kept.setdefault(code, [])
        if len(kept) < KEPT:
            kept.append((path, found))

    def extend(self, found: Iterable[Found]) -> None:
        """Add all."""
        for one in found:
            self.add(*one)

    @property
    def in_doubt(self) -> bool:
        """Whether anything was found that leaves open what the file means."""
        return any(RULES[code].doubt for code in self._counts)

    def checked(self, model: Model | None, table: RankTable | None) -> Checked:
        """What concerns `model`."""
        counts: dict[str, int] = {}
        findings: dict[Severity, list[Finding]] = {severity: [] for severity in Severity}
        for code in sorted(self._counts):
            severity = RULES[code].levels.of(model)
            if severity is None:
                continue
            counts[code] = self._counts[code]
            findings[severity] += [Finding(RULES[code], severity, *one) for one in self._kept[code]]
        ordered = (*findings[Severity.ERROR], *findings[Severity.WARNING])
        return Checked(ordered, counts, model, table)
