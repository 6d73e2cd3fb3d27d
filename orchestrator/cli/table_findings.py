"""What a check of a rank table found, for people and for programs."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import click

from cluster.rank_table import Checked, Finding

_SHOWN = 5


def document_of(checked: Checked) -> dict[str, Any]:
    """The result with all findings that were kept."""
    table = checked.table
    return {
        "ok": checked.ok,
        "errors": checked.errors,
        "warnings": checked.warnings,
        "model": None if checked.model is None else checked.model.value,
        "version": None if table is None else table.version,
        "servers": None if table is None else len(table.servers),
        "ranks": None if table is None else table.ranks,
        "counts": checked.counts,
        "findings": [_row(finding) for finding in checked.findings],
    }


def _row(finding: Finding) -> dict[str, str]:
    rule = finding.rule
    return {
        "code": rule.code,
        "severity": finding.severity.value,
        "path": finding.path,
        "title": rule.title,
        "found": finding.found,
        "why": rule.why,
        "fix": rule.fix,
        "seen": rule.seen,
    }


def show(file: str, checked: Checked, *, err: bool = False) -> None:
    """Findings by rule: what is wrong, where, why it matters, what to do."""
    for rule, group in groupby(checked.findings, key=lambda finding: finding.rule):
        found = list(group)
        click.echo(f"{found[0].severity.value} {rule.code}: {rule.title}", err=err)
        for finding in found[:_SHOWN]:
            click.echo(f"    {finding}", err=err)
        if (more := checked.counts[rule.code] - len(found[:_SHOWN])) > 0:
            click.echo(f"    and {more} more", err=err)
        seen = f" [{rule.seen}]" if rule.seen else ""
        click.echo(f"  why: {rule.why}{seen}\n  fix: {rule.fix}", err=err)
    errors, warnings = counted(checked.errors, "error"), counted(checked.warnings, "warning")
    click.echo(f"{file}: {errors}, {warnings}", err=err)


def counted(number: int, word: str) -> str:
    """A number with its noun."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
