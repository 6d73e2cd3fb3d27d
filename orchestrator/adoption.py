"""What an earlier controller of a run left: its attempt, as records and files have it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator import processes
from orchestrator.attempt import UnderWay
from orchestrator.checkpoints import Verified
from orchestrator.gang import Gang
from orchestrator.health import Sign, Suspect
from orchestrator.layout import RunDirectory, read_json
from orchestrator.ledger import Ledger
from orchestrator.plan import written_down
from orchestrator.states import JobState


def restored(
    ledger: Ledger, directory: RunDirectory, straggler: float | None = None
) -> UnderWay | None:
    """The newest attempt as it was begun; None if its plan is not there.

    What became of its ranks is told by their supervisor, or read from disk.
    """
    files = directory.attempt(ledger.attempt)
    document = read_json(files.plan) if ledger.attempt else None
    if document is None or ledger.attempt_at is None:
        return None
    gang = Gang(written_down(document, ledger.run_id), files, straggler)
    ago = max(0.0, time.time() - ledger.attempt_at)
    gang.began(ago)
    gang.restore_stragglers(ledger.stragglers)
    return UnderWay(
        gang,
        _chosen(ledger.chosen),
        allocated_at=time.monotonic() - ago,
        running=ledger.state is not JobState.STARTING,
        proven=ledger.proven_attempt == ledger.attempt,
    )


def _chosen(document: Mapping[str, Any] | None) -> Verified | None:
    if document is None:
        return None
    return Verified(**{**document, "path": Path(document["path"])})


def suspect_of(ledger: Ledger) -> Suspect | None:
    """What the attempt is failing of, if its controller had begun to stop it."""
    known = ledger.suspect
    if ledger.state is not JobState.STOPPING or known is None:
        return None
    if "sign" not in known:  # the node was lost, and its end had only begun to be recorded
        return Suspect(None, time.monotonic(), Sign.SUPERVISOR, known["cause"])
    trusted = known.get("trusted_step")
    return Suspect(known["rank"], known["at"], Sign(known["sign"]), known["cause"], trusted)


def lives(identity: Mapping[str, Any] | None) -> bool:
    """Whether that very process still runs."""
    return identity is not None and processes.Identity(**identity).alive()


def kill(identity: Mapping[str, Any] | None) -> None:
    """End a supervisor that does not dial; its ranks die with it."""
    if identity is not None and lives(identity):
        processes.kill_quietly(identity["pid"])
