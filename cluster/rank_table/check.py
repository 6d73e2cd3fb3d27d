"""Holds a rank table against every rule."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.rank_table import addresses, forms, pods, ranks, reading, servers
from cluster.rank_table.draft import Draft
from cluster.rank_table.findings import Checked, Findings, Found
from cluster.rank_table.quoting import shown
from cluster.rank_table.values import Model, RankTable
from cluster.rank_table.writing import text_of

_CHECKS: tuple[Callable[[Draft], Iterator[Found]], ...] = (
    servers.ids,
    servers.counts,
    servers.devices,
    servers.choices,
    servers.ports,
    addresses.present,
    addresses.written,
    addresses.compared,
    addresses.hosts,
    ranks.ranks,
    pods.form,
    pods.names,
    pods.members,
    pods.order,
    pods.device_ids,
)


def check_file(path: str | Path, model: Model | None = None) -> Checked:
    """Check a file; one that cannot be read is a finding too."""
    findings = Findings()
    content = reading.content(path, findings)
    name = os.path.basename(path)
    if not name.endswith(".json"):
        findings.add("RT009", "", shown(name))
    return findings.checked(model, None) if content is None else _checked(content, model, findings)


def check_text(content: bytes, model: Model | None = None) -> Checked:
    """Check the bytes of a file.

    A table of version 1.2 is judged as A3 if no model is named: there is no other with super-pods.
    """
    return _checked(content, model, Findings())


def check_table(table: RankTable, model: Model | None = None) -> Checked:
    """Check a table as the file that it would become."""
    return check_text(text_of(table).encode(), model)


def _checked(content: bytes, model: Model | None, findings: Findings) -> Checked:
    document = reading.document(content, findings)
    draft = None if document is None else forms.read(document, findings)
    if draft is None:
        return findings.checked(model, None)
    for check in _CHECKS:
        findings.extend(check(draft))
    if model is None and draft.version == "1.2":
        model = Model.A3
    return findings.checked(model, None if findings.in_doubt else draft.table())
