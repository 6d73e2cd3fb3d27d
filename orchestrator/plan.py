"""From a job and a placement to what will be started: a value to print, compare and test.

Pure: no path is created, no port is leased and no process is looked at.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.allocate import Assignment, Placement, Request
from cluster.device import Device, Inventory
from cluster.rank_table import ServerFacts, text_of
from orchestrator import secrets
from orchestrator.attempt_table import AttemptTable, table_of
from orchestrator.launch import MARK, ForkServerPlan, ProcessPlan
from orchestrator.layout import RunDirectory, Spool
from orchestrator.spec import DeviceKind, JobSpec, LaunchMode, StartMethod
from orchestrator.world import World

PORT_LATER = "<leased at start>"
"""Stands for the scheduler's port in a plan that starts nothing."""

_SCHEDULER_HOST = "127.0.0.1"
# Above every hang limit of ours: muster alone decides who is dead.
_NODE_TIMEOUT_SECONDS = 7 * 24 * 3600
_TOPOLOGY_TIMEOUT_SECONDS = 600
# The longest that the 910 takes: by its default a rank gives up after half an hour in which
# another one evaluates. 600 s to connect: imports and a cold compile differ from rank to rank.
_HCCL = {"HCCL_EXEC_TIMEOUT": "17340", "HCCL_CONNECT_TIMEOUT": "600"}

_NOT_INHERITED_PREFIXES = ("RAY_", "MS_", "MUSTER_")
_NOT_INHERITED = frozenset(
    {
        "RANK_ID",
        "RANK_SIZE",
        "LOCAL_RANK",
        "DEVICE_ID",
        "RANK_TABLE_FILE",
        "OMP_NUM_THREADS",
        "ASCEND_RT_VISIBLE_DEVICES",
        "CUDA_VISIBLE_DEVICES",
        "PYTHONUNBUFFERED",
    }
)


@dataclass(frozen=True)
class Attempt:
    """What distinguishes one attempt from the next. `port` None: not leased yet."""

    number: int
    run_id: str
    resume_from: Path | None
    port: int | None
    snapshots: Path | None = None
    """Where in tmpfs its ranks put snapshots; None: they take none."""


@dataclass(frozen=True)
class RankPlan:
    """One rank: where it runs and how it is started."""

    assignment: Assignment
    process: ProcessPlan
    environment: Mapping[str, str]
    """What muster and the job set; the user's own environment comes below it."""


@dataclass(frozen=True)
class LaunchPlan:
    """Everything that one attempt starts."""

    job: str
    attempt: Attempt
    ranks: tuple[RankPlan, ...]
    scheduler: ProcessPlan | None
    scheduler_environment: Mapping[str, str]
    fork_server: ForkServerPlan | None
    notes: tuple[str, ...]
    table: AttemptTable | None = None
    simulated: str = ""
    """The rehearsal node whose devices these are; its ranks run on the CPU backend."""
    job_ranks: int = 0
    """The ranks of the job where there are fewer processes than that; else 0."""

    @property
    def world(self) -> World:
        """How many processes compute how many ranks."""
        return World(self.job_ranks or len(self.ranks), len(self.ranks))

    @cached_property
    def placement(self) -> Placement:
        """Where the ranks are."""
        return Placement(tuple(rank.assignment for rank in self.ranks))

    @property
    def devices(self) -> dict[int, int]:
        """The physical id of each rank's device."""
        return {rank.assignment.rank: rank.assignment.device.index for rank in self.ranks}

    @property
    def places(self) -> list[list[Any]]:
        """Rank, node and device of every rank, for the record."""
        placed = (rank.assignment for rank in self.ranks)
        return [[a.rank, a.node, f"{a.device.kind.value}:{a.device.index}"] for a in placed]

    @property
    def processes(self) -> tuple[ProcessPlan, ...]:
        """All processes, the scheduler first: ranks look for it at once."""
        ranks = tuple(rank.process for rank in self.ranks)
        return (self.scheduler, *ranks) if self.scheduler else ranks

    def to_document(self) -> dict[str, Any]:
        """The plan as `muster plan --json` prints it."""
        nodes = {rank.assignment.node: None for rank in self.ranks}
        return {
            "job": self.job,
            "attempt": self.attempt.number,
            "resume_from": _text(self.attempt.resume_from),
            "nodes": [
                {
                    "name": node,
                    "ranks": [r.assignment.rank for r in self.ranks if r.assignment.node == node],
                }
                for node in nodes
            ],
            "rank_table": json.loads(text_of(self.table.table)) if self.table else None,
            "rank_table_file": asdict(self.table.file) if self.table else None,
            "simulated_node": self.simulated or None,
            "virtual_ranks": self.world.virtual,
            "scheduler": self._scheduler_document(),
            "fork_server": {"preload": list(self.fork_server.preload)}
            if self.fork_server
            else None,
            "notes": list(self.notes),
            "ranks": [_rank_document(rank) for rank in self.ranks],
        }

    def _scheduler_document(self) -> dict[str, Any] | None:
        if self.scheduler is None:
            return None
        return {
            "host": _SCHEDULER_HOST,
            "port": self.attempt.port,
            "argv": list(self.scheduler.argv),
            "env": dict(self.scheduler_environment),
            "log": self.scheduler.log,
        }


def written_down(document: Mapping[str, Any], run_id: str) -> LaunchPlan:
    """The plan of an attempt that was started, as far as its document has it.

    Enough to watch the attempt, to judge it and to know its devices. What the ranks inherited
    was not written down, so nothing can be started from it.
    """
    resume_from = document["resume_from"]
    scheduler = document["scheduler"] or {}
    return LaunchPlan(
        job=document["job"],
        attempt=Attempt(
            document["attempt"],
            run_id,
            Path(resume_from) if resume_from else None,
            scheduler.get("port"),
        ),
        ranks=tuple(map(_written_rank, document["ranks"])),
        scheduler=None,
        scheduler_environment={},
        fork_server=None,
        notes=tuple(document["notes"]),
        simulated=document["simulated_node"] or "",
        job_ranks=len(document["ranks"]) * document.get("virtual_ranks", 1),
    )


def _written_rank(document: Mapping[str, Any]) -> RankPlan:
    kind, _, index = document["device"].partition(":")
    environment = document["env"]
    assignment = Assignment(
        rank=document["rank"],
        node=document["node"],
        device=Device(DeviceKind(kind), document["node"], int(index), uuid=document.get("uuid")),
        local_rank=int(environment["LOCAL_RANK"]),
        cpus=tuple(document["cpus"]),
        threads=int(environment["OMP_NUM_THREADS"]),
    )
    process = ProcessPlan(
        rank=assignment.rank,
        module=None,
        arguments=(),
        argv=tuple(document["argv"]),
        environment=environment,
        workdir="",
        log=document["log"],
        cpus=assignment.cpus,
        heartbeat=environment["MUSTER_HEARTBEAT"],
        error_file=environment["MUSTER_ERROR_FILE"],
        start="spawn",
        secrets=document.get("secrets", {}),
    )
    return RankPlan(assignment, process, environment)


def request_for(spec: JobSpec, withheld: Mapping[str, str] | None = None) -> Request:
    """What the job asks the allocator for; `withheld` are devices that it may not have, and why."""
    resources = spec.resources
    return Request(
        kind=resources.device,
        ranks=resources.ranks,
        ranks_per_node=resources.ranks_per_node,
        cpus_per_rank=resources.cpus_per_rank,
        bind=spec.launch.bind,
        withheld=withheld or {},
    )


def assume_devices(spec: JobSpec, here: Inventory) -> Inventory:
    """Nodes like the one of `here`, with devices numbered from 0, that could hold the job."""
    resources = spec.resources
    per_node = resources.ranks_per_node or resources.ranks
    names = [f"assumed-{number}" for number in range(-(-resources.ranks // per_node))]
    return Inventory(
        tuple(
            replace(
                here.nodes[0],
                name=name,
                devices=tuple(Device(resources.device, name, index) for index in range(per_node)),
            )
            for name in names
        )
    )


def make_plan(
    spec: JobSpec,
    placement: Placement,
    attempt: Attempt,
    directory: RunDirectory,
    spool: Spool,
    inherited: Mapping[str, str],
    *,
    facts: Mapping[str, ServerFacts] | None = None,
    simulated: str = "",
) -> LaunchPlan:
    """What to start for `attempt`; `inherited` is the user's environment.

    `facts` has the addresses of the nodes for a rank table; without them a job that wants one
    is planned without it. `simulated` is the rehearsal node that the devices are of.
    """
    base = user_environment(inherited)
    base = {name: value for name, value in base.items() if name not in spec.secrets}
    table = None
    if spec.launch.mode is LaunchMode.RANK_TABLE and facts is not None:
        table = table_of(placement, facts, directory.attempt(attempt.number).rank_table)
    gang = _Gang(spec, placement, attempt, directory, spool, base, table, simulated)
    return LaunchPlan(
        job=spec.name,
        attempt=attempt,
        ranks=tuple(gang.rank(assignment) for assignment in placement.assignments),
        scheduler=gang.scheduler() if gang.dynamic else None,
        scheduler_environment=gang.scheduler_environment(),
        fork_server=gang.fork_server() if gang.forks else None,
        notes=(
            *placement.notes,
            *(table.findings()[1] if table else ()),
            *_shrunk(gang.world),
            *gang.notes(),
        ),
        table=table,
        simulated=simulated,
        job_ranks=gang.world.ranks,
    )


def _shrunk(world: World) -> tuple[str, ...]:
    """What a smaller world does without."""
    # Snapshots are of one rank a process: who adds them to the contract asks `_Gang.world.whole`.
    return () if world.whole else (f"runs on {world}: no snapshots are taken",)


def needs_port(spec: JobSpec, *, simulated: bool) -> bool:
    """Whether the ranks find each other by a scheduler, which needs a port.

    Ranks on rehearsal devices do, beside their rank table: the CPU backend reads none.
    """
    by_table = spec.launch.mode is LaunchMode.RANK_TABLE
    return spec.launch.mode is LaunchMode.DYNAMIC or (by_table and simulated)


def user_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The user's environment without what would confuse a rank: Ray's, MindSpore's, ours."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in _NOT_INHERITED and not name.startswith(_NOT_INHERITED_PREFIXES)
    }
    # Every process of a run imports this very muster; what the user put first stays first.
    here = str(Path(__file__).resolve().parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (kept.get("PYTHONPATH"), here)))
    return kept


@dataclass(frozen=True)
class _Gang:
    spec: JobSpec
    placement: Placement
    attempt: Attempt
    directory: RunDirectory
    spool: Spool
    base: Mapping[str, str]
    table: AttemptTable | None
    simulated: str

    @property
    def backend(self) -> DeviceKind:
        """What the ranks compute on."""
        return DeviceKind.CPU if self.simulated else self.spec.resources.device

    @property
    def dynamic(self) -> bool:
        return needs_port(self.spec, simulated=bool(self.simulated))

    @property
    def forks(self) -> bool:
        return self.spec.start_method(self.backend) is StartMethod.FORK

    @property
    def _batch(self) -> bool:
        return self.backend is DeviceKind.CPU

    @property
    def size(self) -> int:
        return len(self.placement.assignments)

    @property
    def full(self) -> bool:
        """Whether every rank of the job has a process of its own."""
        return self.world.whole

    def notes(self) -> tuple[str, ...]:
        if self.full or self.spec.checkpoint.snapshot_every_steps is None:
            return ()
        return ("no snapshots are taken by fewer processes than the job has ranks",)

    @property
    def world(self) -> World:
        return World(self.spec.resources.ranks, self.size)

    def rank(self, assignment: Assignment) -> RankPlan:
        environment = {**self._imported(assignment.threads), **self._contract(assignment)}
        files = self.directory.attempt(self.attempt.number)
        process = ProcessPlan(
            rank=assignment.rank,
            module=self.spec.module,
            arguments=self.spec.argv_args,
            argv=self._argv(),
            environment={**self.base, **environment},
            workdir=str(self.spec.workdir),
            log=str(files.log(assignment.rank)),
            cpus=assignment.cpus,
            memory_nodes=assignment.memory,
            heartbeat=environment["MUSTER_HEARTBEAT"],
            error_file=environment["MUSTER_ERROR_FILE"],
            start=self._start(),
            batch=self._batch,
            table=self.table.file if self.table else None,
            preamble=self._preamble(assignment),
            secrets={name: str(path) for name, path in self.spec.secrets.items()},
            measured=self.spec.health.straggler is not None,
        )
        return RankPlan(assignment, process, environment)

    def scheduler(self) -> ProcessPlan:
        return ProcessPlan(
            rank=None,
            module="orchestrator.scheduler",
            arguments=(),
            argv=(sys.executable, "-m", "orchestrator.scheduler"),
            environment={**self.base, **self.scheduler_environment()},
            workdir=str(self.spec.workdir),
            log=str(self.directory.attempt(self.attempt.number).log(None)),
            cpus=(),
            heartbeat=None,
            error_file=None,
            start="auto" if self.forks else "spawn",
            batch=self._batch,
        )

    def scheduler_environment(self) -> dict[str, str]:
        if not self.dynamic:
            return {}
        return {
            **self._imported(1),
            MARK: self.attempt.run_id,
            "RANK_ID": "0",
            **self._rendezvous("MS_SCHED"),
        }

    def fork_server(self) -> ForkServerPlan:
        threads = min(assignment.threads for assignment in self.placement.assignments)
        return ForkServerPlan(
            python=sys.executable,
            environment={**self.base, **self._imported(threads), MARK: self.attempt.run_id},
            workdir=str(self.spec.workdir),
            preload=self.spec.launch.preload,
            log=str(self.directory.supervisor_log),
        )

    def _start(self) -> str:
        if not self.forks:
            return "spawn"
        return self.spec.launch.start.value  # fork, or auto that may fall back

    def _preamble(self, assignment: Assignment) -> str:
        """What a rank's log begins with: the device, and the table by its digest."""
        if self.table is None and not self.simulated:
            return ""
        kind = " (simulated: the rank runs on the CPU backend)" if self.simulated else ""
        text = f"muster: rank {assignment.rank} on {assignment.device.key}{kind}"
        if self.table is not None:
            text += f"; rank table {self.table.path} sha256 {self.table.file.sha256}"
        return text

    def _argv(self) -> tuple[str, ...]:
        if self.spec.command is not None:
            return (*self.spec.command, *self.spec.argv_args)
        module = str(self.spec.module)
        return (sys.executable, "-m", "orchestrator.entry", module, *self.spec.argv_args)

    def _imported(self, threads: int) -> dict[str, str]:
        """Variables that libraries read when they are imported; the job's own win."""
        own = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        if self.table is not None:
            own |= _HCCL
        if self.backend is DeviceKind.CPU:
            # With AVX-512 oneDNN takes a reference kernel for 3x3 convolutions of plain
            # layouts, 16 to 37 times slower than what it finds below it.
            own["ONEDNN_MAX_CPU_ISA"] = "AVX2"
        return {**own, **self.spec.env}

    def _contract(self, assignment: Assignment) -> dict[str, str]:
        files = self.directory.attempt(self.attempt.number)
        rank = assignment.rank
        checkpoint = {
            "directory": str(self.directory.checkpoints),
            "every_steps": self.spec.checkpoint.every_steps,
            "snapshots": _text(self.attempt.snapshots) if self.full else None,
            "snapshot_every_steps": self.spec.checkpoint.snapshot_every_steps,
        }
        contract = {
            MARK: self.attempt.run_id,
            "RANK_ID": str(rank),
            "RANK_SIZE": str(self.size),
            "LOCAL_RANK": str(assignment.local_rank),
            "DEVICE_ID": str(assignment.local_rank),
            "MUSTER_JOB": self.spec.name,
            "MUSTER_ATTEMPT": str(self.attempt.number),
            "MUSTER_RUN_DIR": str(self.directory.root),
            "MUSTER_RESUME_FROM": _text(self.attempt.resume_from) or "",
            "MUSTER_BACKEND": self.backend.value,
            "MUSTER_HEARTBEAT": str(self.spool.heartbeat(self.attempt.number, rank)),
            "MUSTER_STOP": str(self.spool.stop_request(self.attempt.number)),
            "MUSTER_DRILL": str(self.spool.drill(self.attempt.number, rank)),
            "MUSTER_ERROR_FILE": str(files.error(rank)),
            "MUSTER_CHECKPOINT": json.dumps(checkpoint),
        }
        if not self.world.whole:
            contract["MUSTER_RANKS"] = str(self.world.ranks)
        visible = self.spec.resources.device.visible_variable
        if visible:
            held = self._held[assignment.node]
            contract[visible] = ",".join(map(str, held))
            contract["DEVICE_ID"] = str(held.index(assignment.device.asked_for))
            if self.spec.resources.device is DeviceKind.GPU:
                contract["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # CUDA's own is the fastest first
        if self.table is not None:
            contract["RANK_TABLE_FILE"] = str(self.table.path)
        if self.spec.secrets:
            contract[secrets.NAMES] = ",".join(self.spec.secrets)
        if self.dynamic:
            contract |= self._rendezvous("MS_WORKER") | {"MS_NODE_ID": str(rank)}
        return contract

    @cached_property
    def _held(self) -> dict[str, list[int]]:
        """By node, ids that name the gang's devices there, ascending; a rank's is its place."""
        held: dict[str, list[int]] = {}
        for one in self.placement.assignments:
            held.setdefault(one.node, []).append(one.device.asked_for)
        return {node: sorted(ids) for node, ids in held.items()}

    def _rendezvous(self, role: str) -> dict[str, str]:
        port = PORT_LATER if self.attempt.port is None else str(self.attempt.port)
        return {
            "MS_ROLE": role,
            "MS_WORKER_NUM": str(self.size),
            "MS_SCHED_HOST": _SCHEDULER_HOST,
            "MS_SCHED_PORT": port,
            "MS_NODE_TIMEOUT": str(_NODE_TIMEOUT_SECONDS),
            "MS_TOPO_TIMEOUT": str(_TOPOLOGY_TIMEOUT_SECONDS),
        }


def _rank_document(rank: RankPlan) -> dict[str, Any]:
    uuid = rank.assignment.device.uuid
    return {
        "rank": rank.assignment.rank,
        "node": rank.assignment.node,
        "device": f"{rank.assignment.device.kind.value}:{rank.assignment.device.index}",
        **({"uuid": uuid} if uuid else {}),
        **({"secrets": dict(rank.process.secrets)} if rank.process.secrets else {}),
        "cpus": list(rank.assignment.cpus),
        "env": dict(rank.environment),
        "argv": list(rank.process.argv),
        "log": rank.process.log,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
