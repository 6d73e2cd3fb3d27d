"""The keeper of a run's checkpoints: looks at each in the background, journals what it found,
and chooses what an attempt starts from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from orchestrator.attempt import Unstartable
from orchestrator.checkpoints import Broken, Verified, catalogue, verify
from orchestrator.journal import JournalError
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder
from orchestrator.room import Room
from orchestrator.snapshot_keeper import SnapshotKeeper
from orchestrator.states import FailureClass, JobState
from orchestrator.vault import Tended, Vault


class CheckpointKeeper:
    """Verification and retention beside the training; choice and quarantine between attempts."""

    def __init__(
        self,
        directory: RunDirectory,
        recorder: Recorder,
        *,
        keep: int,
        after: RunDirectory | None = None,
        world_size: int = 0,
    ) -> None:
        """`after` is the run whose state this one starts from while it has none of its own.

        `world_size` is that of the job; 0: its snapshots are nobody's business here.
        """
        self._after = after
        self._refused: dict[Path, str] = {}  # of the run before this one: why, by path
        self._world_size = world_size
        self._snapshots = SnapshotKeeper(directory, recorder)
        self._directory = directory
        self._recorder = recorder
        self._vault = Vault(directory, keep=keep)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._tending: Future[tuple[Tended, str]] | None = None
        self._room = Room(directory.checkpoints)
        self.agreed: Collection[int] = ()
        """What heartbeats of the attempt under way tell of `Ledger.agreed`; empty: nothing yet."""
        # What an earlier controller has recorded is no news.
        known = recorder.ledger.checkpoints
        self._noted = {path for path, one in known.items() if one["verified"]}

    @property
    def idle(self) -> bool:
        """Whether nothing is being looked at."""
        return self._tending is None

    def tend(self) -> None:
        """Begin to verify what is new and retire what is old, unless that is under way."""
        if self._tending is None:
            self._tending = self._worker.submit(self._tend, self._agreed())

    def _agreed(self) -> Collection[int]:
        """`Ledger.agreed` as it is now; what an attempt began with, all its ranks had."""
        ledger = self._recorder.ledger
        return {max(step, ledger.resumed_step) for step in self.agreed or ledger.agreed}

    def _tend(self, agreed: Collection[int]) -> tuple[Tended, str]:
        tended = self._vault.tend(agreed)
        size = self._vault.newest_size or self._snapshots.size()
        return tended, self._room.lack(size)

    def collect(self) -> None:
        """Journal what tending has found, if it is finished; begin anew after a while."""
        if self._tending is None:
            if self._room.due():
                self.tend()
            return
        if not self._tending.done():
            return
        ((results, retired, problem), lack), self._tending = self._tending.result(), None
        for result in results:
            self._note(result)
        for path in retired:
            reason = f"{path.name} deleted: newer ones are verified"
            self._recorder.record("retired", reason, path=str(path))
        for told in filter(None, (problem, lack)):
            self._recorder.record("note", told)

    def snapshots(self) -> Path | None:
        """Where the next attempt may take snapshots; None where that cannot be, which is told."""
        return self._snapshots.prepare()

    def is_snapshot(self, chosen: Verified) -> bool:
        """Whether what was chosen lies in tmpfs and is no checkpoint of record."""
        return self._snapshots.has(chosen.path)

    def promote(self) -> None:
        """The gang has ended: what only a snapshot holds becomes a checkpoint."""
        if not self._world_size:
            return
        self._finish()
        # A storage that cannot be read now may be well when the run goes on.
        with contextlib.suppress(Unstartable):
            newest = self._durable(self._world_size) if self._snapshots.size() else None
            self._snapshots.promote(self._world_size, newest.step if newest else -1)

    def settle(self) -> None:
        """Look at everything before the end is reported."""
        for _ in range(2):  # what is being looked at now, and what has come since
            self.tend()
            self._finish()

    def choose(self, world_size: int) -> Verified | None:
        """The newest checkpoint or snapshot that verifies, at the same step the checkpoint.

        None for a fresh start, never by accident. Raises Unstartable (class storage) when there
        were checkpoints and nothing can be used.
        """
        self._finish()
        self._vault.sweep()
        for step, snapshot in self._snapshots.newest_first(world_size):
            newer = self._durable(world_size, at_least=step) or next(snapshot, None)
            if newer is not None:
                return newer
        chosen = self._durable(world_size)
        if chosen is None and self._recorder.ledger.ever_checkpointed:
            raise Unstartable(
                FailureClass.STORAGE,
                "no checkpoint of this run can be used, and it will not start from scratch by "
                f"itself; the broken ones are in {self._directory.quarantine}",
            )
        return chosen or self._inherited()

    def _durable(self, world_size: int, at_least: int = 0) -> Verified | None:
        """The newest checkpoint that verifies; what is newer and broken is moved aside."""
        chosen: Verified | None = None
        try:
            for result in self._vault.newest(world_size, at_least):
                if isinstance(result, Broken):
                    self.quarantine(result)
                else:
                    chosen = result
                    self._note(result)
        except OSError as error:
            reason = f"the checkpoints cannot be read: {error}"
            raise Unstartable(FailureClass.STORAGE, reason) from error
        return chosen

    def _inherited(self) -> Verified | None:
        """What the run before this one has left, whatever its world size; nothing there is moved.

        Raises Unstartable when it has left nothing that verifies.
        """
        if self._after is None:
            return None
        problems = []
        for checkpoint in catalogue(self._after.checkpoints):
            if checkpoint.path in self._refused:
                problems.append(f"{checkpoint.path}: {self._refused[checkpoint.path]}")
                continue
            try:
                result = verify(checkpoint)
            except OSError as error:
                problems.append(f"{checkpoint.path}: {error}")
                continue
            if isinstance(result, Verified):
                return result
            problems.append(f"{result.path}: {result.reason}")
        told = "; ".join(problems) or f"there is none in {self._after.checkpoints}"
        reason = f"no checkpoint of the run in `after` can be used: {told}"
        raise Unstartable(FailureClass.USER, reason)

    def quarantine(self, broken: Broken) -> None:
        """Move a checkpoint aside for good. Raises Unstartable if it cannot be moved.

        A snapshot is dropped. What the run before this one has left is not ours to move: it is
        passed over.
        """
        if self._snapshots.has(broken.path):
            return self._snapshots.drop(broken)
        if broken.path.parent != self._directory.checkpoints:
            self._refused[broken.path] = broken.reason
            why = f"{broken.path}, of the run in `after`, cannot be used: {broken.reason}"
            return self._recorder.record("note", why, step=broken.step, path=str(broken.path))
        try:
            target = self._vault.quarantine(broken)
        except OSError as error:
            reason = f"{broken.path} is broken and cannot be moved: {error}"
            raise Unstartable(FailureClass.STORAGE, reason) from error
        self._noted.discard(str(broken.path))
        self._recorder.record(
            "quarantined",
            f"checkpoint of step {broken.step} cannot be used: {broken.reason}",
            step=broken.step,
            path=str(broken.path),
            moved_to=str(target),
        )

    def distrust(self, after: int, reason: str) -> None:
        """Never offer again what was saved after step `after`.

        A run of which then nothing is left may begin anew, if its ranks began with nothing of
        it. Raises Unstartable if a checkpoint cannot be moved.
        """
        self._finish()  # what is being read must not be moved
        checkpoints = [c for c in catalogue(self._directory.checkpoints) if c.step > after]
        for saved in (*checkpoints, *self._snapshots.newer_than(after)):
            why = f"what was saved after step {after} cannot be trusted: {reason}"
            self.quarantine(Broken(saved.path, saved.step, why))
        left = catalogue(self._directory.checkpoints) or self._snapshots.newer_than(-1)
        if self._recorder.ledger.ever_checkpointed and not left and not self._went_on():
            self._recorder.record("anew", f"the run begins anew: {reason}")

    def _went_on(self) -> bool:
        """Whether the newest attempt began with what this run itself had saved."""
        chosen = self._recorder.ledger.chosen
        path = Path(chosen["path"]) if chosen else None
        own = self._directory.checkpoints
        return path is not None and (path.parent == own or self._snapshots.has(path))

    def close(self) -> None:
        """Wait for what is being looked at; keep, or give back, what is in tmpfs.

        A run whose ranks may live keeps it there.
        """
        state = self._recorder.ledger.state
        if self._world_size and state in (JobState.SUCCEEDED, JobState.CANCELLED):
            self._snapshots.remove()
        elif self._world_size and (state.terminal or not state.holds_devices):
            # A record that comes too late, when a person has moved the job on, is none.
            with contextlib.suppress(JournalError):
                self.promote()
        self._worker.shutdown(wait=True)

    def _finish(self) -> None:
        if self._tending is not None:
            self._tending.exception()
            self.collect()

    def _note(self, result: Verified | Broken) -> None:
        if str(result.path) in self._noted:
            return
        self._noted.add(str(result.path))
        broken = result.reason if isinstance(result, Broken) else None
        self._recorder.record(
            "checkpoint",
            f"step {result.step}: {broken}" if broken else f"step {result.step} verified",
            step=result.step,
            path=str(result.path),
            digest=result.digest if isinstance(result, Verified) else None,
            verified=broken is None,
            agreed=sorted(self._agreed()),
        )
