"""A validated job as values: what `orchestrator.jobfile` makes of a YAML file.

Every default of the job file stands here and nowhere else. Times are seconds, sizes bytes.
The mappings are plain dictionaries so that a spec can be pickled; treat them as frozen.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.affinity import Bind
from cluster.device import DeviceKind
from orchestrator.heartbeat import PHASES
from orchestrator.states import FailureClass

__all__ = ["Bind", "DeviceKind", "JobSpec", "LaunchMode", "StartMethod", "to_document"]

VERSION = 1
"""The job file version that this release reads."""

NOTIFY_EVENTS = ("failed", "recovered", "succeeded")

CONTRACT_ENV = frozenset(
    {
        "RANK_ID",
        "RANK_SIZE",
        "LOCAL_RANK",
        "DEVICE_ID",
        "RANK_TABLE_FILE",
        "MS_ROLE",
        "MS_WORKER_NUM",
        "MS_SCHED_HOST",
        "MS_SCHED_PORT",
        "MS_NODE_ID",
        "MS_NODE_TIMEOUT",
        "MS_TOPO_TIMEOUT",
        "ASCEND_RT_VISIBLE_DEVICES",
        "CUDA_VISIBLE_DEVICES",
    }
)
"""Variables that the rank contract sets; a job may not."""

CONTRACT_ENV_PREFIX = "MUSTER_"


class LaunchMode(enum.Enum):
    """How the ranks find each other: by a table, a scheduler, or not at all."""

    RANK_TABLE = "rank_table"
    DYNAMIC = "dynamic"
    NONE = "none"

    @classmethod
    def default_for(cls, device: DeviceKind) -> LaunchMode:
        """What a job gets that does not say."""
        return cls.RANK_TABLE if device.has_rank_table else cls.DYNAMIC


class StartMethod(enum.Enum):
    """How a rank's process comes to be."""

    AUTO = "auto"
    FORK = "fork"
    SPAWN = "spawn"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The gang: how many ranks, on what, how many a node."""

    device: DeviceKind
    ranks: int
    ranks_per_node: int
    cpus_per_rank: int | None = None
    """None: the node's CPUs shared evenly."""
    memory_per_rank: int | None = None
    """Bytes; None: no limit."""
    node_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """How many nodes the gang fills."""
        return self.ranks // self.ranks_per_node


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How ranks are started. `preload` is what a fork server imports before it forks."""

    mode: LaunchMode
    bind: Bind = Bind.NUMA
    start: StartMethod = StartMethod.AUTO
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """How often state is saved, and how much is kept. None: the trainer's own interval."""

    every_steps: int | None = None
    keep: int = 5
    snapshot_every_steps: int | None = None


DEFAULT_PHASE_TIMEOUTS: Mapping[str, float] = {
    "init": 600.0,
    "join": 600.0,
    "load": 600.0,
    "compile": 1800.0,
    "snapshot": 600.0,
    "checkpoint": 600.0,
    "evaluate": 7200.0,
}
"""The longest stay in a phase; `train` is missing because heartbeats watch over it."""


@dataclass(frozen=True, kw_only=True)
class Hang:
    """How long a training rank may be without a step: `factor` times what 99 of 100 steps take.

    Never less than `floor` seconds, which cover the noise of a shared machine, nor more than
    `ceiling`.
    """

    factor: float = 5.0
    floor: float = 60.0
    ceiling: float = 1800.0


@dataclass(frozen=True, kw_only=True)
class Health:
    """When a rank counts as hung or slow. A phase without a limit may last for ever."""

    heartbeat_timeout: float | None = None
    """Seconds without a step while training; None: worked out from the steps seen."""
    straggler: float | None = None
    """How many times slower than the gang's median a rank may be; None: not watched."""
    move_stragglers: bool = False
    """Whether the next attempt avoids the device of a rank that was slow to the end."""
    phase_timeouts: Mapping[str, float] = field(
        default_factory=lambda: dict(DEFAULT_PHASE_TIMEOUTS)
    )
    hang: Hang = field(default_factory=Hang)
    """The law of the limit that is worked out; `heartbeat_timeout`, if given, wins."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The wait before attempt n + 1: first · factor^(n-1) seconds, at most `max`.

    Shortened by up to its `jitter`th part, as run and attempt draw it.
    """

    first: float = 1.0
    factor: float = 2.0
    max: float = 60.0
    jitter: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A failure that matches everything given here is of class `failure`."""

    failure: FailureClass
    log: str | None = None
    """A regular expression, searched for in the failed rank's log."""
    exit_code: int | None = None


DEFAULT_BUDGETS: Mapping[FailureClass, int | None] = {
    FailureClass.USER: 0,
    FailureClass.PROCESS: 3,
    FailureClass.OOM: 1,
    FailureClass.NUMERIC: 1,
    FailureClass.HANG: 2,
    FailureClass.RENDEZVOUS: 5,
    FailureClass.DEVICE: 3,
    FailureClass.NODE: 3,
    FailureClass.STORAGE: 2,
    FailureClass.PREEMPTION: None,
}


@dataclass(frozen=True, kw_only=True)
class Restart:
    """How often, how soon and how small a failed job starts again."""

    min_ranks: int
    budgets: Mapping[FailureClass, int | None] = field(
        default_factory=lambda: dict(DEFAULT_BUDGETS)
    )
    """Restarts by class, every class present; None: unlimited."""
    replenish_after: float | None = None
    """Seconds of training that counted after which a class has its whole budget again."""
    backoff: Backoff = field(default_factory=Backoff)
    no_progress: int = 3
    rules: tuple[Rule, ...] = ()
    """In order; the first that matches decides."""
    fallback: tuple[tuple[str, str], ...] | None = None
    """Arguments that replace the job's of the same name, once a failure repeats at its step."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Where the job waits; a higher priority goes first."""

    name: str = "default"
    priority: int = 50


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The longest wait for devices and the longest run, in seconds; None: no limit."""

    wait: float | None = None
    run: float | None = None


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """What runs once after success, in the job's directory and environment."""

    module: str | None = None
    command: tuple[str, ...] | None = None
    args: tuple[tuple[str, str], ...] = ()

    @property
    def argv_args(self) -> tuple[str, ...]:
        """The arguments as the program gets them."""
        return render_args(self.args)


@dataclass(frozen=True, kw_only=True)
class Notification:
    """An address that is told of some events (`NOTIFY_EVENTS`)."""

    url: str
    events: tuple[str, ...] = NOTIFY_EVENTS


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A job that can be planned. Exactly one of `module` and `command` is given."""

    name: str
    module: str | None = None
    command: tuple[str, ...] | None = None
    workdir: Path
    """Absolute, and a directory when the job was read; ranks start in it."""
    after: Path | None = None
    """The run directory of another run: its newest checkpoint is what this one starts from."""
    args: tuple[tuple[str, str], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Variable name to absolute path of a 0600 file; the content is not read here."""
    resources: Resources
    launch: Launch
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    health: Health = field(default_factory=Health)
    restart: Restart
    queue: Queue = field(default_factory=Queue)
    limits: Limits = field(default_factory=Limits)
    then: FollowUp | None = None
    notify: tuple[Notification, ...] = ()
    given: frozenset[str] = frozenset()
    """Paths of the fields that stand in the file or an override, sections included."""

    @property
    def argv_args(self) -> tuple[str, ...]:
        """The arguments as the script gets them: `--key=value` each."""
        return render_args(self.args)

    def with_fallback(self) -> JobSpec:
        """The job with the arguments of `restart.fallback` in place of its own of those names."""
        args = {**dict(self.args), **dict(self.restart.fallback or ())}
        return replace(self, args=tuple(args.items()))

    def start_method(self, backend: DeviceKind) -> StartMethod:
        """FORK or SPAWN: `auto` forks where that is proven, for modules on the CPU backend."""
        if self.launch.start is not StartMethod.AUTO:
            return self.launch.start
        forks = self.module is not None and backend is DeviceKind.CPU
        return StartMethod.FORK if forks else StartMethod.SPAWN


def render_args(args: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """`--key=value` for each pair, in order."""
    return tuple(f"--{key}={value}" for key, value in args)


def to_document(spec: JobSpec) -> dict[str, Any]:
    """The spec as JSON values in the shape of the job file, defaults filled in.

    Seconds and bytes are numbers, what is not set is null. Besides the job file's own
    fields there is `given`, so that `jobfile.from_document` gives back an equal spec.
    """
    resources, restart = {**vars(spec.resources)}, {**vars(spec.restart)}
    resources["nodes"] = {"labels": resources.pop("node_labels")}
    resources["cpus_per_rank"] = spec.resources.cpus_per_rank or "auto"
    restart["backoff"] = vars(spec.restart.backoff)
    restart["budgets"] = {
        failure: "unlimited" if budget is None else budget
        for failure, budget in spec.restart.budgets.items()
    }
    restart["rules"] = [
        {"log": rule.log, "exit_code": rule.exit_code, "class": rule.failure}
        for rule in spec.restart.rules
    ]
    fallback = spec.restart.fallback
    restart["fallback"] = None if fallback is None else {"args": dict(fallback)}
    health = {**vars(spec.health)}
    health["phase_timeouts"] = {
        phase: spec.health.phase_timeouts.get(phase, "unlimited") for phase in PHASES
    }
    health["hang"] = vars(spec.health.hang)
    health["heartbeat_timeout"] = spec.health.heartbeat_timeout or "auto"
    then = None if spec.then is None else {**vars(spec.then), "args": dict(spec.then.args)}
    document = {
        "version": VERSION,
        "name": spec.name,
        "module": spec.module,
        "command": spec.command,
        "workdir": spec.workdir,
        "after": spec.after,
        "args": dict(spec.args),
        "env": spec.env,
        "secrets": spec.secrets,
        "resources": resources,
        "launch": vars(spec.launch),
        "checkpoint": vars(spec.checkpoint),
        "health": health,
        "restart": restart,
        "queue": vars(spec.queue),
        "limits": vars(spec.limits),
        "then": then,
        "notify": [vars(notification) for notification in spec.notify],
        "given": sorted(spec.given),
    }
    plain: dict[str, Any] = _plain(document)
    return plain


def _plain(value: object) -> Any:
    if value is None or type(value) in _JSON:
        return value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else str(value)


_JSON = frozenset({str, int, float, bool})
