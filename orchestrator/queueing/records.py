"""From what the store and a plan say of a job to what the queue decides upon. Pure."""

from __future__ import annotations

from cluster.allocate import Placement, Request
from orchestrator.queueing.values import Running, Waiting
from orchestrator.spec import Bind, JobSpec
from orchestrator.store.values import JobRecord


def waiting_of(record: JobRecord, request: Request) -> Waiting:
    """A QUEUED job; `request` is `plan.request_for` of its spec with the devices it blames."""
    return Waiting(
        job=record.job,
        request=request,
        place=record.place,
        since=record.queued_at,
        priority=record.priority,
        queue=record.queue,
        wait_limit=record.wait_limit,
        run_limit=record.run_limit,
        front=record.front,
    )


def running_of(
    record: JobRecord,
    spec: JobSpec,
    placement: Placement,
    started_at: float,
    *,
    preemptible: bool,
    stopping: bool,
) -> Running:
    """A job that holds devices. `started_at` is when the run began that its limit counts from."""
    return Running(
        job=record.job,
        assignments=placement.assignments,
        started_at=started_at,
        priority=record.priority,
        queue=record.queue,
        run_limit=record.run_limit,
        preemptible=preemptible,
        stopping=stopping,
        bound=spec.launch.bind is not Bind.NONE,
    )
