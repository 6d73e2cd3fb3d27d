"""What killed controllers left of jobs that hold nothing: processes, spools, an unfinished journal.

A controller may be killed before a job's first attempt is on record, or between a job's last
event and the end of its supervisor. Nobody adopts such a job, so nobody would find these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator import ownership, snapshot_place
from orchestrator.layout import RunDirectory, Spool, read_json
from orchestrator.status import is_driven


def clear(runs: Path, held: Callable[[str], bool], mend: Callable[[str], None]) -> None:
    """Take away what is left of jobs that are not `held`; `mend` completes a job's journal."""
    snapshot_place.remove_stale()
    for directory, run_id, spool in (*_named(runs), *_owned(runs)):
        job = directory.root.name
        if held(job) or is_driven(directory):
            continue
        ownership.clear(run_id, spool)
        mend(job)
        directory.live.unlink(missing_ok=True)


def _named(runs: Path) -> Iterator[tuple[RunDirectory, str, Spool | None]]:
    """What run directories say of who drives them."""
    for live in runs.glob("*/live.json"):
        directory, document = RunDirectory(live.parent), read_json(live) or {}
        spool = Spool.from_document(document["spool"]) if "spool" in document else None
        if spool is not None and not ownership.belongs(spool, directory):
            spool = None
        yield directory, str(document.get("run_id", "")), spool


def _owned(runs: Path) -> Iterator[tuple[RunDirectory, str, Spool | None]]:
    """Spools whose controller was killed before it could say more."""
    for spool in Spool.all():
        owner = read_json(spool.owner) or {}
        root = Path(str(owner.get("run_dir", "")))
        if root.parent == runs.absolute():
            yield RunDirectory(root), str(owner.get("run_id", "")), spool
