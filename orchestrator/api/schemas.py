"""Bodies that are read and answers that are given, for checking the former and describing both."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from cluster.device import DeviceKind
from orchestrator.states import JobState

KEY = r"^[\x20-\x7e]+$"
LONGEST_KEY = 255
"""What an idempotency key may be."""

_Line = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Given(BaseModel):
    """A body: what it has beyond its fields is a mistake."""

    model_config = ConfigDict(extra="forbid")


class _Answer(BaseModel):
    """An answer: it may come to have more fields."""

    model_config = ConfigDict(extra="allow")


class JobText(_Given):
    """A job file as it stands, and how to read it."""

    text: Annotated[str, Field(description="the job file, YAML")]
    file: Annotated[_Line, Field(description="its name in messages")] = "<text>"
    cwd: Annotated[
        str,
        StringConstraints(max_length=4096, pattern=r"^/[^\x00-\x1f\x7f]*$"),
        Field(description="where relative paths start: an absolute path on the head's machine"),
    ]
    overrides: Annotated[
        list[str], Field(max_length=1000, description="PATH=VALUE, put in before validation")
    ] = []


class Fault(_Given):
    """What to break: KIND[:RANK][@step:N|@phase:NAME]."""

    fault: Annotated[str, StringConstraints(min_length=1, max_length=100)]


class BarText(_Given):
    """Devices of one kind to keep from jobs."""

    devices: Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(min_length=1, max_length=1000)]  # fmt: skip # noqa: E501
    why: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    length: Annotated[
        str | None,
        StringConstraints(max_length=64),
        Field(description="90, 30m, 24h, 2d; null: until unbarred"),
    ] = None


class Down(_Given):
    """How to go down. Neither: running jobs are stopped gracefully and queued again."""

    keep_ranks: bool = False
    drain: bool = False


class Mistake(BaseModel):
    """One of the mistakes of a request or a job file."""

    line: int | None
    column: int | None
    path: str
    found: str
    allowed: str
    hint: str
    override: str | None


class ProblemDocument(BaseModel):
    """RFC 9457. `problems` lists every mistake, where there are several to tell."""

    type: str
    title: str
    status: int
    detail: str
    problems: list[Mistake] = []


class Health(_Answer):
    """How the controller is."""

    schema_: Annotated[int, Field(alias="schema")]
    observed_at: float
    epoch: int
    accepting: bool
    jobs: dict[str, int]
    warnings: list[str]


class Submitted(_Answer):
    """A job that was taken in."""

    schema_: Annotated[int, Field(alias="schema")]
    job: str
    name: str
    state: JobState
    run_dir: str
    position: int | None


class Row(_Answer):
    """A job as it stands. What is not known is null."""

    job: str
    name: str
    user: str
    queue: str
    priority: int
    device: DeviceKind
    ranks: int
    state: JobState
    reason: str | None
    position: int | None
    attempt: int
    submitted_at: float
    queued_at: float
    started_at: float | None
    ended_at: float | None
    run_dir: str


class _Document(_Answer):
    schema_: Annotated[int, Field(alias="schema")]
    observed_at: float


class Jobs(_Document):
    """A page of jobs, newest first; `before` asks for the next one."""

    jobs: list[Row]
    before: int | None


class Status(_Document):
    """`muster status --json`, and up to which event it holds."""

    job: str
    name: str
    state: JobState
    run_dir: str
    attempt: int
    ranks: list[dict[str, Any]]
    last_event: int


class Event(BaseModel):
    """Something that happened to a job."""

    sequence: int
    time: float
    kind: str
    attempt: int
    state: JobState | None
    reason: str
    data: dict[str, Any]


class Events(_Document):
    """Events in order; `last_event` is the newest there is, which may be on a later page."""

    events: list[Event]
    last_event: int


class Incident(_Answer):
    """A failure, what it cost and what was decided."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    job: str
    incident: int
    attempt: int
    class_: Annotated[str, Field(alias="class")]
    fault_at: float


class Incidents(_Document):
    """The incidents of a job, in order."""

    incidents: list[Incident]


class AllIncidents(Incidents):
    """Incidents of all jobs, newest first; `before` asks for the next page."""

    before: int | None


class Explained(_Document):
    """`muster explain --json`, every incident included."""

    job: str
    state: JobState
    goodput: float | None
    budgets: list[dict[str, Any]]
    explanations: list[dict[str, Any]]


class CheckpointRow(_Answer):
    """A checkpoint; verified only when that was asked for."""

    step: int
    path: str
    best: bool


class SnapshotRow(_Answer):
    """A snapshot in tmpfs that is whole; it is gone when the job has ended."""

    step: int
    path: str
    attempt: int


class Checkpoints(_Document):
    """`muster checkpoints --json`."""

    checkpoints: list[CheckpointRow]
    quarantined: list[str]
    snapshots: list[SnapshotRow]


class Drilled(_Answer):
    """A fault that will be injected."""

    schema_: Annotated[int, Field(alias="schema")]
    job: str
    fault: str


class LogLine(BaseModel):
    """One line of a stream of them. `rank` is null for the scheduler; `offset` is behind it."""

    rank: int | None
    attempt: int
    offset: int
    line: str


class Devices(_Answer):
    """`muster devices --json`."""

    schema_: Annotated[int, Field(alias="schema")]
    devices: list[dict[str, Any]]
    gpus: dict[str, Any]
    cpus: dict[str, Any]
    bars_unknown: str | None


class Barred(_Answer):
    """The new bars, and what is worth knowing of them."""

    schema_: Annotated[int, Field(alias="schema")]
    barred: list[dict[str, Any]]
    notes: list[str]


class Unbarred(_Answer):
    """The devices that are free again."""

    schema_: Annotated[int, Field(alias="schema")]
    unbarred: list[str]


class Planned(_Answer):
    """`muster plan --json`."""

    schema_: Annotated[int, Field(alias="schema")]
    observed_at: float
    job: str
    nodes: list[dict[str, Any]]
    ranks: list[dict[str, Any]]
    notes: list[str]


class GoingDown(_Answer):
    """The head has begun to go down."""

    schema_: Annotated[int, Field(alias="schema")]
    keep_ranks: bool
    drain: bool
