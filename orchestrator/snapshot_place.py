"""The directory in tmpfs that holds a run's snapshots: tied to the run, it outlives its processes.

The run directory says where it is, and it says whose it is. It is not in the spool, which ends
with the run's processes: what it is for is their death, the controller's included.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import time
from pathlib import Path
from typing import Any

from orchestrator.journal import read_events
from orchestrator.layout import (
    RunDirectory,
    new_snapshot_place,
    read_json,
    snapshot_owner,
    snapshot_places,
    write_json,
)
from orchestrator.ledger import fold
from orchestrator.states import JobState

_YOUNG = 60.0


def of(directory: RunDirectory) -> Path | None:
    """Where the run's snapshots are; None if it has none, or after a reboot."""
    document = _object(read_json(directory.snapshots))
    place = Path(str(document.get("directory", "")))
    return place if place in snapshot_places() and _owner(place) == directory.root else None


def prepare(directory: RunDirectory) -> Path | None:
    """Have a place for the run's snapshots; None where there is no tmpfs. Raises OSError."""
    place = of(directory) or new_snapshot_place()
    if place is None or place.exists():
        return place
    # Before there is anything to find: a kill leaves no place that its run does not know.
    write_json(directory.snapshots, {"directory": str(place)})
    place.mkdir(mode=0o700)
    write_json(snapshot_owner(place), {"run_dir": str(directory.root)}, durable=False)
    return place


def remove(directory: RunDirectory) -> None:
    """Give the memory back; safe to call twice."""
    place = of(directory)
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):
        directory.snapshots.unlink(missing_ok=True)


def remove_stale() -> None:
    """Take away what nobody can want: of runs whose directory is gone, or that have succeeded."""
    for place in snapshot_places():
        with contextlib.suppress(OSError):
            if _stale(place):
                shutil.rmtree(place, ignore_errors=True)


def _stale(place: Path) -> bool:
    if time.time() - place.lstat().st_mtime <= _YOUNG:
        return False  # its run may be just coming, or just ending
    root = _owner(place)
    if root is None or not root.exists():
        return True
    return fold(read_events(RunDirectory(root).events)).state is JobState.SUCCEEDED


def _owner(place: Path) -> Path | None:
    """The run directory that a place belongs to; no link, and nobody else may write there."""
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        return None
    named = _object(read_json(snapshot_owner(place))).get("run_dir")
    return Path(named) if isinstance(named, str) else None


def _object(document: Any) -> dict[str, Any]:
    return document if isinstance(document, dict) else {}
