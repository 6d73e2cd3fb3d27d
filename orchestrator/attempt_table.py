"""The rank table of one attempt: a file that is written once and never changed.

HCCL reads it in every rank, at its own time. So its digest is in the journal and at the head of
each rank's log, and no process is started for a file that is not the one which was written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.allocate import Placement
from cluster.rank_table import (
    Model,
    RankTable,
    ServerFacts,
    Severity,
    check_table,
    digest_of,
    from_placement,
    model_of,
    text_of,
)
from orchestrator.launch import TableFile
from orchestrator.layout import write_bytes


class BadTable(ValueError):
    """A table that HCCL would refuse; the message has every error with its code and its fix."""


@dataclass(frozen=True)
class AttemptTable:
    """The table of an attempt's placement and where it is to lie."""

    table: RankTable
    path: Path
    model: Model | None

    @cached_property
    def file(self) -> TableFile:
        """The file as the starting of ranks knows it: asked for by each of them."""
        return TableFile(str(self.path), digest_of(self.table))

    def findings(self) -> tuple[list[str], list[str]]:
        """What is wrong with it, errors and warnings, each in one line."""
        checked = check_table(self.table, self.model)
        errors: list[str] = []
        warnings: list[str] = []
        for finding in checked.findings:
            rule = finding.rule
            (errors if finding.severity is Severity.ERROR else warnings).append(
                f"rank table {rule.code}: {finding}: {rule.why}; {rule.fix}"
            )
        return errors, warnings

    def check(self) -> None:
        """Raises BadTable for a table that HCCL would refuse."""
        errors, _ = self.findings()
        if errors:
            raise BadTable("\n".join(errors))

    def write(self) -> None:
        """Put the file there, read-only. Raises OSError (FileExistsError: not twice)."""
        write_bytes(self.path, text_of(self.table).encode(), replace=False)
        os.chmod(self.path, 0o444)


def table_of(placement: Placement, facts: Mapping[str, ServerFacts], path: Path) -> AttemptTable:
    """The table of a placement. Raises ValueError for a node that `facts` lacks."""
    model = model_of(assignment.device.fabric for assignment in placement.assignments)
    return AttemptTable(from_placement(placement, facts), path, model)
