"""What the store refuses or cannot do. After each of them nothing of the call was kept."""

from __future__ import annotations

from orchestrator.states import JobState


class StoreError(RuntimeError):
    """The store did not do it; the message says why and, where there is one, the way out."""


class CannotOpen(StoreError):
    """There is no store to be had at that path."""


class InUse(CannotOpen):
    """Another controller has the store open."""


class Damaged(StoreError):
    """The file is not what was written: by its content, or because it was moved away."""


class StoreFull(StoreError):
    """It could not be made durable: no room, or a disk that fails.

    No job is to be taken in meanwhile; running ranks are not concerned. The same call succeeds
    once there is room. After a failing disk (not a full one) a restart may find what was refused.
    """


class StoreBusy(StoreError):
    """Somebody else's program has held the file for too long."""


class StoreClosed(StoreError):
    """The store was closed."""


class NoSuchJob(StoreError):
    """There is no job of that id."""

    def __init__(self, job: str) -> None:
        super().__init__(job)

    def __str__(self) -> str:
        return f"there is no job {self.args[0]}"


class Moved(StoreError):
    """The job is not in the state that the caller saw; `found` is the one it is in."""

    def __init__(self, job: str, seen: JobState, found: JobState) -> None:
        super().__init__(job, seen, found)
        self.found = found

    def __str__(self) -> str:
        job, seen, found = self.args
        return f"{job} is {found.value} by now, no longer {seen.value}"


class IllegalMove(StoreError):
    """`states.JOB_MOVES` does not have it."""

    def __init__(self, job: str, state: JobState, wanted: JobState) -> None:
        super().__init__(job, state, wanted)

    def __str__(self) -> str:
        job, state, wanted = self.args
        return f"{job} is {state.value}, which may not become {wanted.value}"


class KeyReused(StoreError):
    """The idempotency key was given before, with another job; `job` is that one."""

    def __init__(self, key: str, job: str) -> None:
        super().__init__(key, job)
        self.job = job

    def __str__(self) -> str:
        return (
            f"the idempotency key {self.args[0]!r} was used for {self.job}, which is another job "
            "than this; use a new key for a new job"
        )


class StaleEpoch(StoreError):
    """A controller that has been succeeded may change nothing any more."""

    def __init__(self, given: int, current: int) -> None:
        super().__init__(given, current)

    def __str__(self) -> str:
        return f"refused: a command of controller epoch {self.args[0]}; it is {self.args[1]} now"
