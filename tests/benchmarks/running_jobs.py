"""Running jobs as a controller that was killed leaves them: store, run directories, spools.

Made by the project's own code, all but the processes: every supervisor and rank is said to be
one process, that of a simulator.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.allocate import Placement, allocate
from cluster.device import Inventory
from orchestrator import ownership
from orchestrator.jobfile import loads
from orchestrator.layout import SHARED_RAY, Home, RunDirectory, Spool, store_file
from orchestrator.plan import Attempt, LaunchPlan, make_plan, request_for
from orchestrator.service.news import News
from orchestrator.service.store_log import StoreLog
from orchestrator.spec import JobSpec, to_document
from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store.values import Submission
from tests.benchmarks.bench import BenchmarkError
from tests.benchmarks.placements import node

TEXT = """version: 1
name: simulated
module: train
workdir: /
args: {epochs: 12, batch: 4, data: /data/coco}
resources: {device: cpu, ranks: 8}
checkpoint: {every_steps: 500}
"""

_THREADS = 64


@dataclass(frozen=True)
class Running:
    """A job whose ranks run, as far as anybody can tell."""

    job: str
    spool: Spool
    ranks: int


def prepare(
    environment: Mapping[str, str], count: int, who: dict[str, Any], *overrides: str
) -> list[Running]:
    """That many running jobs, each on a node of its own; `who` is every process of theirs."""
    with Store.open(store_file(environment)) as store:
        made = partial(
            _make, store, store.begin_epoch(), loads(TEXT, overrides), Home.of(environment), who
        )
        with ThreadPoolExecutor(_THREADS) as workers:
            return list(workers.map(made, range(count)))


def _make(
    store: Store, epoch: int, spec: JobSpec, home: Home, who: dict[str, Any], number: int
) -> Running:
    placement = allocate(Inventory((node(number),)), request_for(spec))
    if not isinstance(placement, Placement):
        raise BenchmarkError(placement.reason)
    submission = Submission.of(spec, TEXT.encode(), runs=home.runs, user="bench")
    record = store.submit(submission, epoch=epoch)
    directory, spool = RunDirectory(Path(record.run_dir)), Spool.create(SHARED_RAY)
    run_id = ownership.new_run_id()
    ownership.own(spool, directory, run_id)
    plan = make_plan(
        spec, placement, Attempt(1, run_id, None, None), directory, spool, _ENVIRONMENT
    )
    _write(directory, spec, plan)
    log = StoreLog(store, record.job, epoch=epoch, directory=directory, news=News())
    log.events()
    log.append(
        "controller",
        f"controller epoch {epoch}",
        state=JobState.QUEUED,
        run_id=run_id,
        epoch=epoch,
        spool=spool.to_document(),
        **who,
    )
    log.append("supervisor_started", "it owns the ranks of this node", **who)
    log.append(
        "attempt",
        "starting fresh",
        state=JobState.STARTING,
        attempt=1,
        resumed_step=0,
        resumed_from=None,
        digest=None,
        world_size=None,
        port=None,
        sources="",
        rank_table=None,
        simulated=False,
        places=plan.places,
        notes=[],
    )
    pids = [[rank, who["pid"], who["start_time"]] for rank in range(len(plan.ranks))]
    reason = "every rank has a process"
    log.append("running", reason, attempt=1, state=JobState.RUNNING, pids=pids)
    return Running(record.job, spool, len(plan.ranks))


_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


def _write(directory: RunDirectory, spec: JobSpec, plan: LaunchPlan) -> None:
    """The files that a start makes. That they are durable is no part of a benchmark."""
    directory.root.mkdir(parents=True)
    directory.checkpoints.mkdir()
    files = directory.attempt(1)
    files.create()
    for path, document in (
        (directory.spec, to_document(spec)),
        (files.plan, plan.to_document()),
    ):
        path.write_text(json.dumps(document, indent=1))
    directory.job_file.write_text(TEXT)


def started(running: Running, who: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the supervisor of a job tells every controller of its ranks."""
    return [
        {
            "event": "started",
            "attempt": 1,
            "rank": rank,
            "pid": who["pid"],
            "start_time": who["start_time"],
            "at": time.monotonic(),
        }
        for rank in range(running.ranks)
    ]
