"""States of jobs and ranks, and the classes of failure: facts live on the enum members."""

from __future__ import annotations

import enum


class JobState(enum.Enum):
    """Where a job stands (DESIGN §6)."""

    QUEUED = "QUEUED"
    HELD = "HELD"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    RECOVERING = "RECOVERING"
    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """True when the job has ended and only a person can start it again."""
        return self in _TERMINAL

    @property
    def holds_devices(self) -> bool:
        """True while devices are reserved for the job."""
        return self in _HOLDS_DEVICES

    def may_become(self, other: JobState) -> bool:
        """Whether the move to `other` is legal."""
        return other in JOB_MOVES[self]


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
_HOLDS_DEVICES = frozenset(
    {
        JobState.STARTING,
        JobState.RUNNING,
        JobState.STOPPING,
        JobState.RECOVERING,
        JobState.UNKNOWN,
    }
)

# A person's `resume` takes an ended job back to QUEUED; nothing else leaves a terminal state.
JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(
        {JobState.STARTING, JobState.HELD, JobState.CANCELLED, JobState.FAILED}
    ),
    JobState.HELD: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.STARTING: frozenset(
        {JobState.RUNNING, JobState.STOPPING, JobState.UNKNOWN, JobState.FAILED}
    ),
    JobState.RUNNING: frozenset({JobState.STOPPING, JobState.UNKNOWN, JobState.SUCCEEDED}),
    JobState.STOPPING: frozenset(
        {
            JobState.RECOVERING,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.QUEUED,
            JobState.HELD,
        }
    ),
    JobState.RECOVERING: frozenset(
        {
            JobState.STARTING,
            JobState.QUEUED,
            JobState.HELD,
            JobState.FAILED,
            JobState.CANCELLED,
        }
    ),
    JobState.UNKNOWN: frozenset({JobState.STOPPING, JobState.RUNNING, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset({JobState.QUEUED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}


class RankState(enum.Enum):
    """Where one rank of the current attempt stands."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    JOINING = "JOINING"
    LOADING = "LOADING"
    COMPILING = "COMPILING"
    TRAINING = "TRAINING"
    CHECKPOINTING = "CHECKPOINTING"
    EVALUATING = "EVALUATING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    LOST = "LOST"
    HUNG = "HUNG"

    @property
    def ended(self) -> bool:
        """True when the rank's process is gone for good."""
        return self in _RANK_ENDED


_RANK_ENDED = frozenset(
    {RankState.SUCCEEDED, RankState.FAILED, RankState.STOPPED, RankState.LOST, RankState.HUNG}
)


class FailureClass(enum.Enum):
    """What a failure is about; the budgets of a job file are kept by these names."""

    USER = "user"
    PROCESS = "process"
    OOM = "oom"
    NUMERIC = "numeric"
    HANG = "hang"
    RENDEZVOUS = "rendezvous"
    DEVICE = "device"
    NODE = "node"
    STORAGE = "storage"
    PREEMPTION = "preemption"

    @property
    def blames_device(self) -> bool:
        """True when the next attempt must not use the failed rank's device."""
        return self is FailureClass.DEVICE

    @property
    def may_repeat(self) -> bool:
        """True when the same failure at the same step twice is the job's own doing.

        What is around the job (node, device, ports, disks, the queue) fails as it likes.
        """
        return self in _MAY_REPEAT


_MAY_REPEAT = frozenset(
    {
        FailureClass.USER,
        FailureClass.PROCESS,
        FailureClass.OOM,
        FailureClass.NUMERIC,
        FailureClass.HANG,
    }
)
