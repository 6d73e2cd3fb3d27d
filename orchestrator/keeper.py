"""The keeper of a run's checkpoints: looks at each in the background, journals what it found,
and chooses what an attempt starts from.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from orchestrator.attempt import Unstartable
from orchestrator.checkpoints import Broken, Verified, catalogue, verify
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder
from orchestrator.states import FailureClass
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
    ) -> None:
        """`after` is the run whose state this one starts from while it has none of its own."""
        self._after = after
        self._directory = directory
        self._recorder = recorder
        self._vault = Vault(directory, keep=keep)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._tending: Future[Tended] | None = None
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
            self._tending = self._worker.submit(self._vault.tend)

    def collect(self) -> None:
        """Journal what tending has found, if it is finished."""
        if self._tending is None or not self._tending.done():
            return
        (results, retired, problem), self._tending = self._tending.result(), None
        for result in results:
            self._note(result)
        for path in retired:
            reason = f"{path.name} deleted: newer ones are verified"
            self._recorder.record("retired", reason, path=str(path))
        if problem:
            self._recorder.record("note", problem)

    def settle(self) -> None:
        """Look at everything before the end is reported."""
        for _ in range(2):  # what is being looked at now, and what has come since
            self.tend()
            self._finish()

    def choose(self, world_size: int) -> Verified | None:
        """The newest checkpoint that verifies; None for a fresh start, never by accident.

        Raises Unstartable (class storage) when there were checkpoints and none can be used.
        """
        self._finish()
        self._vault.sweep()
        chosen: Verified | None = None
        try:
            for result in self._vault.newest(world_size):
                if isinstance(result, Broken):
                    self.quarantine(result)
                else:
                    chosen = result
                    self._note(result)
        except OSError as error:
            reason = f"the checkpoints cannot be read: {error}"
            raise Unstartable(FailureClass.STORAGE, reason) from error
        if chosen is None and self._recorder.ledger.ever_checkpointed:
            raise Unstartable(
                FailureClass.STORAGE,
                "no checkpoint of this run can be used, and it will not start from scratch by "
                f"itself; the broken ones are in {self._directory.quarantine}",
            )
        return chosen or self._inherited()

    def _inherited(self) -> Verified | None:
        """What the run before this one has left, whatever its world size; nothing there is moved.

        Raises Unstartable when it has left nothing that verifies.
        """
        if self._after is None:
            return None
        problems = []
        for checkpoint in catalogue(self._after.checkpoints):
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
        """Move a checkpoint aside for good. Raises Unstartable if it cannot be moved."""
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

        A run of which then nothing is left may begin anew, if its beginning is what is trusted.
        Raises Unstartable if a checkpoint cannot be moved.
        """
        self._finish()  # what is being read must not be moved
        for saved in catalogue(self._directory.checkpoints):
            if saved.step > after:
                why = f"what was saved after step {after} cannot be trusted: {reason}"
                self.quarantine(Broken(saved.path, saved.step, why))
        if after <= 0 and self._recorder.ledger.ever_checkpointed:
            self._recorder.record("anew", f"the run begins anew: {reason}")

    def close(self) -> None:
        """Wait for what is being looked at."""
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
        )
