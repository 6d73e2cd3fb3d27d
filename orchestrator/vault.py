"""A run's checkpoints in the controller's hands: each is read once, and remembered.

`tend` may run in a thread of its own; everything else belongs to the controller's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from orchestrator import checkpoints
from orchestrator.checkpoints import Broken, Checkpoint, Verified
from orchestrator.layout import RunDirectory


class Tended(NamedTuple):
    """What `Vault.tend` did: verified, deleted, and what went wrong with deleting."""

    results: list[Verified | Broken]
    retired: list[Path]
    problem: str


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
        present = self.catalogue()
        for gone in self._known.keys() - {checkpoint.path for checkpoint in present}:
            # Moved away while it was read: the same step may come back whole.
            self._known.pop(gone, None)
        fresh = [c for c in reversed(present) if c.path not in self._known]
        results = [checkpoints.verify(checkpoint) for checkpoint in fresh]
        self._known.update({result.path: result for result in results})
        return results

    def tend(self, agreed: Collection[int] = ()) -> Tended:
        """Verify what is new, then retire what is old.

        `agreed`: steps that ranks which differ may be thrown back to; empty: nothing is known.
        """
        results: list[Verified | Broken] = []
        gone: list[Path] = []
        try:
            results += self.verify_new()
            for path in self._expendable(agreed):
                checkpoints.delete(path)
                self._known.pop(path, None)
                gone.append(path)
        except OSError as error:
            return Tended(results, gone, f"the checkpoints cannot be tended: {error}")
        return Tended(results, gone, "")

    def sweep(self) -> None:
        """Between attempts: remove what a killed trainer or deletion left half done."""
        checkpoints.sweep(self._directory.checkpoints)

    def newest(self, world_size: int, at_least: int = 0) -> Iterator[Verified | Broken]:
        """Before a start: read again, from the newest on, until one is whole.

        None before step `at_least` is looked at.
        """
        found = checkpoints.newest_usable(
            self._directory.checkpoints, world_size=world_size, at_least=at_least
        )
        for result in found:
            self._known[result.path] = result
            yield result

    def quarantine(self, broken: Broken) -> Path:
        """Move it aside; returns where it lies now."""
        self._known.pop(broken.path, None)
        return checkpoints.quarantine(broken, self._directory.quarantine)

    @property
    def newest_size(self) -> int:
        """Bytes of the newest that is known to be whole; 0: none, or it has just gone."""
        whole = [one for one in self._known.values() if isinstance(one, Verified)]
        newest = max(whole, key=lambda one: one.step, default=None)
        return checkpoints.size(newest.path) if newest else 0

    def _expendable(self, agreed: Collection[int]) -> list[Path]:
        present = [self._known[c.path] for c in self.catalogue() if c.path in self._known]
        best = checkpoints.best(self._directory.checkpoints)
        spared = checkpoints.fallbacks(present, agreed) | ({best} if best else set())
        return checkpoints.expendable(present, self._keep, spared)
