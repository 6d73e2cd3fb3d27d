"""`muster drill`: break a run that is under way, on purpose."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from orchestrator import drill as drills
from orchestrator import processes
from orchestrator.cli import EXIT_FAILED
from orchestrator.cli.common import fail, job_argument
from orchestrator.cli.named import to_order
from orchestrator.cli.remote import controller, needs_controller
from orchestrator.layout import RunDirectory

if TYPE_CHECKING:
    from orchestrator.status import RunView

_POLL = 0.1
_ANNOUNCED = 0.2


@click.command()
@job_argument
@click.option("--fault", required=True, metavar="FAULT", help="One of: " + ", ".join(drills.KINDS))
@click.option("--timeout", default=600.0, show_default=True, help="Wait so long for its moment, s.")
@needs_controller
def drill(job: str, fault: str, timeout: float) -> None:
    """Inject FAULT, KIND[:RANK][@step:N|@phase:NAME], into JOB.

    JOB is a run directory, or the id of a submitted job: its controller then waits for the moment.
    """
    target = to_order(job)
    if isinstance(target, RunDirectory):
        _inject(target, fault, timeout)
        return
    controller().drill(target, fault)
    click.echo(f"the controller injects {fault}; watch it come back: muster status {target} -w")


def _inject(directory: RunDirectory, fault: str, timeout: float) -> None:
    from orchestrator.local_run import journal_event
    from orchestrator.status import view_from_disk

    view = view_from_disk(directory)
    if not view.live:
        fail(
            f"{directory.root}: nobody drives this run now; a drill needs one under way",
            EXIT_FAILED,
        )
    try:
        parsed = drills.parse(fault, len(view.ranks) or None)
        deadline = time.monotonic() + timeout
        while not (view.ranks and drills.due(parsed, view.ranks)):
            if time.monotonic() > deadline or not view.live:
                fail(f"{fault}: its moment did not come", EXIT_FAILED)
            time.sleep(_POLL)
            view = view_from_disk(directory)
        target = _target(view)
        # Announced for a moment to come, so that the record tells the fault's own time.
        at = time.monotonic() + _ANNOUNCED
        journal_event(directory, "drill", fault, fault=fault, rank=parsed.rank, at=at)
        time.sleep(max(0.0, at - time.monotonic()))
        drills.inject(parsed, target)
    except drills.FaultError as error:
        fail(str(error))
    click.echo(f"injected {fault}; watch it come back: muster status {directory.root} -w")


def _target(view: RunView) -> drills.Target:
    from orchestrator.layout import read_json

    live = read_json(view.directory.live) or {}
    pids = {
        rank.rank: rank.pid
        for rank in view.ranks
        if rank.pid is not None and rank.exit is None and _is_same(rank.pid, rank.start_time)
    }
    ray = processes.mentioning(live["spool"]["ray"]) if "spool" in live else []
    known = view.ledger.supervisor
    supervisor = known["pid"] if known and _is_same(known["pid"], known["start_time"]) else None
    plan = read_json(view.directory.attempt(view.ledger.attempt).plan) or {}
    return drills.Target(
        pids,
        supervisor,
        tuple(pid for pid in ray if processes.name_of(pid) == "raylet"),
        view.directory.checkpoints,
        {rank: place.index for rank, place in view.places.items()},
        plan.get("simulated_node") or "",
    )


def _is_same(pid: int, start_time: int | None) -> bool:
    identity = processes.identify(pid)
    return identity is not None and identity.start_time == start_time
