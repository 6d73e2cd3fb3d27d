"""How one process is started: the value that a plan makes and a supervisor carries out.

Standard library only (supervisor and fork server use it).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator import processes, secrets
from orchestrator.memory_policy import bind_memory

MARK = "MUSTER_RUN_ID"
"""Environment variable that marks every process of a run, to find what escaped."""


@dataclass(frozen=True)
class TableFile:
    """The rank table that a rank is to read, and the SHA-256 of what was written there."""

    path: str
    sha256: str

    def changed(self) -> str:
        """Why the file is not the one that was written; empty: it is."""
        try:
            with open(self.path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"rank table {self.path}: {error.strerror}"
        if digest == self.sha256:
            return ""
        return (
            f"rank table {self.path} has changed since it was written: "
            f"its sha256 is {digest}, not {self.sha256}"
        )


@dataclass(frozen=True)
class ProcessPlan:
    """A process to start. `rank` None is the rendezvous scheduler.

    `module` with `arguments` may be started by fork; `argv` is what a plain start executes.
    """

    rank: int | None
    module: str | None
    arguments: tuple[str, ...]
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: str
    log: str
    cpus: tuple[int, ...]
    heartbeat: str | None
    error_file: str | None
    start: str  # fork, spawn, or auto: fork, and spawn if the fork server refuses
    memory_nodes: tuple[int, ...] = ()  # NUMA nodes to take memory from; none: any
    batch: bool = False  # SCHED_BATCH: computes, and lets whoever wakes it wait for a moment
    table: TableFile | None = None
    preamble: str = ""  # the first line of its log
    secrets: Mapping[str, str] = field(default_factory=dict)  # variable → path of its 0600 file
    measured: bool = False  # what it needs is looked at now and then, to find stragglers

    @property
    def label(self) -> str:
        return "scheduler" if self.rank is None else f"rank {self.rank}"

    def own_environment(self) -> dict[str, str]:
        """What the process itself gets, secrets included: for nobody else, and never written.

        Raises secrets.Unusable.
        """
        return {**self.environment, **secrets.read(self.secrets)}

    def to_document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ProcessPlan:
        return cls(
            **{
                **document,
                "arguments": tuple(document["arguments"]),
                "argv": tuple(document["argv"]),
                "cpus": tuple(document["cpus"]),
                "memory_nodes": tuple(document["memory_nodes"]),
                "table": None if document["table"] is None else TableFile(**document["table"]),
            }
        )


@dataclass(frozen=True)
class ForkServerPlan:
    """One fork server: what it is started with and what it imports before its first fork."""

    python: str
    environment: Mapping[str, str]
    workdir: str
    preload: tuple[str, ...]
    log: str

    def to_document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ForkServerPlan:
        return cls(**{**document, "preload": tuple(document["preload"])})


def bind(launch: ProcessPlan, supervisor: int) -> None:
    """Tie the calling process to its supervisor's life, its CPUs and its memory.

    Raises OSError. Memory that cannot be bound costs time and nothing else: the log tells.
    """
    processes.die_with_parent(supervisor)
    # What is ignored stays ignored through exec, and the supervisor ignores these.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if launch.cpus:
        os.sched_setaffinity(0, launch.cpus)
    if launch.memory_nodes:
        try:
            bind_memory(launch.memory_nodes)
        except OSError as error:
            nodes = ",".join(map(str, launch.memory_nodes))
            _tell(launch, f"memory is not bound to NUMA nodes {nodes}: {error}")
    if launch.batch:
        # MindSpore's TCP client loses a race, and half a second, whenever the thread that sees a
        # connection come up preempts the one that is opening it. Batch threads do not preempt.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _tell(launch: ProcessPlan, text: str) -> None:
    """A line in the rank's log, whose descriptor the process may not have yet."""
    with contextlib.suppress(OSError), open(launch.log, "ab", buffering=0) as log:
        log.write(f"muster: {text}\n".encode())


def settle(launch: ProcessPlan, supervisor: int) -> None:
    """Make a forked process the one that `launch` describes, all but its program.

    Own session, dies with the supervisor, its CPUs and memory, its output to its log, the signal
    handling of a Python that has just started. Raises OSError.
    """
    os.setsid()
    bind(launch, supervisor)
    os.chdir(launch.workdir)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(launch.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def freshen_threads() -> None:
    """Let OpenCV have as many threads as the process has CPUs; it counted those of the server."""
    opencv = sys.modules.get("cv2")
    if opencv is not None:
        opencv.setNumThreads(len(os.sched_getaffinity(0)))


def freshen_random() -> None:
    """Give a forked process random states of its own, as a started one would have."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
