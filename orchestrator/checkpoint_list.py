"""What `muster checkpoints --json` says of a run's checkpoints."""

from __future__ import annotations

import time
from typing import Any

from orchestrator import snapshot_place, snapshots
from orchestrator.checkpoints import Broken, Checkpoint, best, catalogue, verify
from orchestrator.layout import RunDirectory

SCHEMA = 1


def document(directory: RunDirectory, *, verified: bool = False) -> dict[str, Any]:
    """The checkpoints of a run, which need not exist; `verified` reads every byte of them."""
    spared = best(directory.checkpoints)
    rows: list[dict[str, Any]] = []
    for checkpoint in catalogue(directory.checkpoints):
        row: dict[str, Any] = {
            "step": checkpoint.step,
            "path": str(checkpoint.path),
            "best": checkpoint.path == spared,
        }
        rows.append(row | (_verdict(checkpoint) if verified else {}))
    return {
        "schema": SCHEMA,
        "observed_at": time.time(),
        "checkpoints": rows,
        "snapshots": _snapshots(directory),
        "quarantined": sorted(str(path) for path in directory.quarantine.glob("step-*")),
    }


def _snapshots(directory: RunDirectory) -> list[dict[str, Any]]:
    """Those that are whole now, newest first; not read, since ranks may be writing them over."""
    return [
        {"step": one.step, "path": str(one.path), "attempt": one.attempt}
        for one in snapshots.found(snapshot_place.of(directory))
    ]


def _verdict(checkpoint: Checkpoint) -> dict[str, Any]:
    result = verify(checkpoint)
    if isinstance(result, Broken):
        return {"verified": False, "reason": result.reason, "digest": None}
    return {"verified": True, "reason": None, "digest": result.digest}
