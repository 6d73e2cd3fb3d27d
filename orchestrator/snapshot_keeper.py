"""A run's snapshots in the controller's hands: offered to an attempt, promoted, given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator import snapshot_place, snapshots
from orchestrator.checkpoints import Broken, Checkpoint, Verified
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder


class SnapshotKeeper:
    """Only while no trainer runs, but for `prepare` and `size`."""

    def __init__(self, directory: RunDirectory, recorder: Recorder) -> None:
        self._directory = directory
        self._recorder = recorder
        self._waits = False
        """Whether something is there that could not be promoted."""

    def prepare(self) -> Path | None:
        """Where the next attempt's ranks may put snapshots; None where that cannot be, which is
        told: a run goes on without.
        """
        try:
            place = snapshot_place.prepare(self._directory)
            problem = "there is no tmpfs in /dev/shm"
        except OSError as error:
            place, problem = None, str(error)
        if place is None:
            self._recorder.record("note", f"no snapshots are taken: {problem}")
        return place

    def newest_first(self, world_size: int) -> Iterator[tuple[int, Iterator[Verified]]]:
        """Step of each whole snapshot, and a way to have it verified: empty if that fails.

        One that fails is dropped, with a note.
        """
        for snapshot in snapshots.found(snapshot_place.of(self._directory)):
            yield snapshot.step, self._verified(snapshot, world_size)

    def _verified(self, snapshot: snapshots.Snapshot, world_size: int) -> Iterator[Verified]:
        result = snapshots.verified(snapshot, world_size)
        if isinstance(result, Broken):
            self.drop(result)
        else:
            yield result

    def has(self, path: Path) -> bool:
        """Whether a path is a snapshot of this run, and no checkpoint."""
        return path.parent == snapshot_place.of(self._directory)

    def newer_than(self, step: int) -> list[Checkpoint]:
        """Those taken after a step."""
        there = snapshots.found(snapshot_place.of(self._directory))
        return [Checkpoint(one.path, one.step) for one in there if one.step > step]

    def drop(self, broken: Broken) -> None:
        """Take one away that cannot be used."""
        snapshots.drop(broken.path)
        reason = f"the snapshot of step {broken.step} is dropped: {broken.reason}"
        self._recorder.record("note", reason, step=broken.step, path=str(broken.path))

    def size(self) -> int:
        """Bytes of a snapshot, which a checkpoint will have too; 0: not known yet."""
        newest = snapshots.found(snapshot_place.of(self._directory))[:1]
        return newest[0].size if newest else 0

    def promote(self, world_size: int, newer_than: int) -> None:
        """Make the newest snapshot a checkpoint if it has a step that no checkpoint has.

        What is of no more use is removed. What cannot be promoted stays where it is, for a later
        attempt, and is told.
        """
        try:
            chosen = self._newest(world_size, newer_than)
            if chosen is not None:
                path = snapshots.promote(chosen, self._directory.checkpoints)
                self._record_promoted(chosen, path)
        except (OSError, ValueError) as error:
            step = chosen.step if chosen else "?"
            reason = f"the snapshot of step {step} stays in tmpfs and is not promoted: {error}"
            self._waits = True
            self._recorder.record("note", reason)
        else:
            self._waits = False
            snapshot_place.remove(self._directory)

    def _newest(self, world_size: int, newer_than: int) -> Verified | None:
        for step, candidates in self.newest_first(world_size):
            if step <= newer_than:
                return None
            for one in candidates:
                return one
        return None

    def _record_promoted(self, snapshot: Verified, path: Path) -> None:
        self._recorder.record(
            "promoted",
            f"the snapshot of step {snapshot.step} is a checkpoint now",
            step=snapshot.step,
            path=str(path),
            digest=snapshot.digest,
            world_size=snapshot.world_size,
            verified=True,
        )

    def remove(self) -> None:
        """The run is over: the memory is given back, unless something in it waits to be saved."""
        if not self._waits:
            snapshot_place.remove(self._directory)
