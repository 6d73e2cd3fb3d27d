"""A run's checkpoints in the controller's hands: each is read once, and remembered.

`verify_new` may run in a thread of its own; everything else belongs to the controller's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator import checkpoints
from orchestrator.checkpoints import Broken, Checkpoint, Verified
from orchestrator.layout import RunDirectory


class Vault:
    """Verification, choice, quarantine and retention over one checkpoint directory."""

    def __init__(self, directory: RunDirectory, *, keep: int) -> None:
        self._directory = directory
        self._keep = keep
        self._known: dict[Path, Verified | Broken] = {}

    def catalogue(self) -> list[Checkpoint]:
        """What lies there now, newest first."""
        return checkpoints.catalogue(self._directory.checkpoints)

    def verify_new(self) -> list[Verified | Broken]:
        """Verify what has not been looked at yet, oldest first; returns just that."""
        fresh = [c for c in reversed(self.catalogue()) if c.path not in self._known]
        results = [checkpoints.verify(checkpoint) for checkpoint in fresh]
        self._known.update({result.path: result for result in results})
        return results

    def newest(self, world_size: int) -> Iterator[Verified | Broken]:
        """Before a start: read again, from the newest on, until one is whole."""
        yield from checkpoints.newest_usable(self._directory.checkpoints, world_size=world_size)

    def quarantine(self, broken: Broken) -> Path:
        """Move it aside; returns where it lies now."""
        self._known.pop(broken.path, None)
        return checkpoints.quarantine(broken, self._directory.quarantine)

    def retire(self) -> list[Path]:
        """Delete what newer verified checkpoints have made superfluous; returns what went."""
        present = [self._known[c.path] for c in self.catalogue() if c.path in self._known]
        gone = checkpoints.expendable(present, self._keep)
        for path in gone:
            checkpoints.delete(path)
            self._known.pop(path, None)
        return gone
