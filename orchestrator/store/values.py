"""What goes into the store and comes out of it: frozen values, times in Unix seconds."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.bars import Bar
from cluster.device import DeviceKind
from orchestrator.journal import Event
from orchestrator.spec import JobSpec, to_document
from orchestrator.states import FailureClass, JobState, RankState

LARGEST_PAGE = 10_000


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job to be taken in. `runs` is where run directories are; its own is named by its id.

    `key` makes a repeated submission the same job: one of the same `user` with the same job file,
    read the same way.
    """

    name: str
    spec: Mapping[str, Any]
    text: bytes
    runs: Path
    user: str
    queue: str
    priority: int
    device: DeviceKind
    ranks: int
    wait_limit: float | None = None
    run_limit: float | None = None
    key: str | None = None

    @classmethod
    def of(
        cls, spec: JobSpec, text: bytes, *, runs: Path, user: str, key: str | None = None
    ) -> Submission:
        """A validated job as it was given. Of its secrets the spec holds paths only."""
        return cls(
            name=spec.name,
            spec=to_document(spec),
            text=text,
            runs=runs,
            user=user,
            queue=spec.queue.name,
            priority=spec.queue.priority,
            device=spec.resources.device,
            ranks=spec.resources.ranks,
            wait_limit=spec.limits.wait,
            run_limit=spec.limits.run,
            key=key,
        )

    @cached_property
    def document(self) -> str:
        """The spec as JSON."""
        return json.dumps(self.spec, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Tells one body from another: sha256 of the spec and the text."""
        return hashlib.sha256(self.document.encode() + b"\0" + self.text).hexdigest()


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it stands. Its spec and text are apart (`Store.job_file`): lists stay light.

    `run_dir` is absolute. `number` counts submissions; `place` orders those that wait within a
    priority, `front` ones first (they were started already). `queued_at` is when it last became
    QUEUED, `last_event` the sequence number of the newest event.
    """

    number: int
    job: str
    name: str
    user: str
    queue: str
    priority: int
    device: DeviceKind
    ranks: int
    wait_limit: float | None
    run_limit: float | None
    run_dir: str
    state: JobState
    reason: str
    attempt: int
    front: bool
    place: int
    submitted_at: float
    queued_at: float
    started_at: float | None
    ended_at: float | None
    last_event: int
    key: str | None


@dataclass(frozen=True)
class JobFile:
    """A job's spec as a document (`jobfile.from_document` reads it) and the file as given."""

    spec: Mapping[str, Any]
    text: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a job with its sequence number, counted from 1 without gaps."""

    sequence: int
    event: Event


@dataclass(frozen=True)
class Filter:
    """Which jobs: each field that is given must fit."""

    states: frozenset[JobState] = frozenset()
    user: str | None = None
    queue: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Page:
    """At most `limit` entries, the newest first, older than the one numbered `before`."""

    limit: int = 100
    before: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= LARGEST_PAGE:
            raise ValueError(f"a page holds 1 to {LARGEST_PAGE} entries, not {self.limit}")


@dataclass(frozen=True)
class JobPage:
    """Jobs, and where the next page begins (`Page.before`); None when there are no more."""

    jobs: tuple[JobRecord, ...]
    before: int | None


def happened(
    kind: str,
    reason: str = "",
    *,
    attempt: int = 0,
    state: JobState | None = None,
    at: float | None = None,
    **data: Any,
) -> Event:
    """An event of now: what `Journal.append` would write, not yet written."""
    return Event(time.time() if at is None else at, kind, attempt, state, reason, data)


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One attempt of a job. Its ranks refer to it, so it is recorded with or before them."""

    attempt: int
    started_at: float
    ended_at: float | None = None
    resumed_step: int = 0
    last_step: int = 0
    outcome: str = ""


@dataclass(frozen=True, kw_only=True)
class RankRecord:
    """A rank of an attempt: where it is, and which process for ever (pid, start, boot)."""

    attempt: int
    rank: int
    node: str
    device: str
    state: RankState
    pid: int | None = None
    start_time: int | None = None
    boot_id: str = ""
    exit_code: int | None = None
    signal: int | None = None
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class IncidentRecord:
    """A failure, counted from 1 in its job; `document` is its entry in `incidents --json`."""

    incident: int
    attempt: int
    failure: FailureClass
    fault_at: float
    document: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """A checkpoint by its path, and what became of it: kept, quarantined or retired."""

    path: Path
    step: int
    digest: str
    world_size: int
    verified: bool
    written_at: float
    fate: str = "kept"


Record = AttemptRecord | RankRecord | IncidentRecord | CheckpointRecord


@dataclass(frozen=True)
class BarRecord:
    """A barred device of a node."""

    node: str
    bar: Bar


@dataclass(frozen=True)
class JobIncident:
    """An incident, and whose; `number` orders all incidents of a store."""

    number: int
    job: str
    incident: IncidentRecord
