"""`muster drill`: break a run that is under way, on purpose, or rehearse a job file."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from orchestrator import drill as drills
from orchestrator import processes
from orchestrator.cli import EXIT_FAILED
from orchestrator.cli.common import fail, json_option, print_json
from orchestrator.cli.named import to_order
from orchestrator.cli.remote import controller, needs_controller
from orchestrator.layout import RunDirectory, Spool

if TYPE_CHECKING:
    from orchestrator.status import RunView

_POLL = 0.1
_ANNOUNCED = 0.2
_SLOWEST_DRILL = 300.0


@click.command()
@click.argument("job", metavar="JOB|FILE")
@click.option("--fault", metavar="FAULT", help="One of: " + ", ".join(drills.KINDS))
@click.option("--timeout", default=600.0, show_default=True, help="Wait so long for its moment, s.")
@click.option("--wait", is_flag=True, help="Wait for what comes of it; exit code 1 if it is wrong.")
@click.option("--all", "every", is_flag=True, help="Rehearse a job file: each kind, a short run.")
@click.option("--kinds", metavar="KIND,…", help="With --all: these kinds only.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="With --all: change.")
@click.option(
    "--longest", default=_SLOWEST_DRILL, show_default=True, help="With --all: of one drill, s."
)
@json_option
@needs_controller
def drill(
    job: str,
    fault: str | None,
    timeout: float,
    wait: bool,
    every: bool,
    kinds: str | None,
    overrides: tuple[str, ...],
    longest: float,
    as_json: bool,
) -> None:
    """Inject FAULT, KIND[:RANK][@step:N|@phase:NAME], into JOB; or rehearse FILE with --all.

    JOB is a run directory, or the id of a submitted job: its controller then waits for the moment.
    """
    if every == (fault is not None):
        fail("give either --fault FAULT with a run, or --all with a job file")
    if every:
        _rehearse(job, kinds, overrides, longest, as_json=as_json)
        return
    assert fault is not None
    target = to_order(job)
    if isinstance(target, RunDirectory):
        results = _inject(target, fault, timeout, wait=wait)
    else:
        results = _inject_remotely(target, fault, timeout, wait=wait)
    if wait:
        _report(results, as_json=as_json)


def _report(results: list[dict[str, Any]], *, as_json: bool) -> None:
    from orchestrator.panel import print_drills

    passed = all(result["passed"] for result in results)
    if as_json:
        print_json({"schema": 1, "observed_at": time.time(), "passed": passed, "drills": results})
    else:
        print_drills(results)
    sys.exit(0 if passed else EXIT_FAILED)


def _rehearse(
    file: str, kinds: str | None, overrides: tuple[str, ...], longest: float, *, as_json: bool
) -> None:
    from orchestrator.cli.common import the_job
    from orchestrator.drill import rehearsal
    from orchestrator.support import not_built

    spec = the_job(file, overrides)
    missing = not_built(spec)
    if missing:
        fail("\n".join(f"{file}: {problem}" for problem in missing))
    try:
        chosen = rehearsal.faults_for(spec, kinds.split(",") if kinds else None)
    except drills.FaultError as error:
        fail(str(error))

    def tell(line: str) -> None:
        click.echo(line, err=True)

    _report(rehearsal.rehearse(file, overrides, chosen, longest, tell), as_json=as_json)


def _inject_remotely(job: str, fault: str, timeout: float, *, wait: bool) -> list[dict[str, Any]]:
    client = controller()
    since = client.status(job)["last_event"] if wait else 0
    client.drill(job, fault)
    if not wait:
        click.echo(f"the controller injects {fault}; watch it come back: muster status {job} -w")
        return []
    wanted = str(drills.parse(fault))
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for event in client.events(job, after=since):
            if event["kind"] == "drill_result" and event["data"]["fault"] == wanted:
                return [event["data"]]
        time.sleep(1.0)
    fail(f"{fault}: nothing was settled within {timeout:g} s", EXIT_FAILED)


def _inject(
    directory: RunDirectory, fault: str, timeout: float, *, wait: bool
) -> list[dict[str, Any]]:
    from orchestrator.drill import referee
    from orchestrator.local_run import journal_event
    from orchestrator.status import view_from_disk

    view = view_from_disk(directory)
    if not view.live:
        fail(
            f"{directory.root}: nobody drives this run now; a drill needs one under way",
            EXIT_FAILED,
        )
    lasting = None
    try:
        parsed = drills.parse(fault, len(view.ranks) or None)
        deadline = time.monotonic() + timeout
        while not (view.ranks and drills.due(parsed, view.ranks)):
            if time.monotonic() > deadline or not view.live:
                fail(f"{fault}: its moment did not come", EXIT_FAILED)
            time.sleep(_POLL)
            view = view_from_disk(directory)
        target = _target(view)
        moment = referee.moment_of(parsed, target, view.ranks, (), submitted=False)
        # Announced for a moment to come, so that the record tells the fault's own time.
        at = time.monotonic() + _ANNOUNCED
        journal_event(directory, "drill", str(parsed), **referee.entry(parsed, moment, at))
        time.sleep(max(0.0, at - time.monotonic()))
        lasting = drills.inject(parsed, target)
        if wait:
            return _await_verdict(directory, at, deadline, lasting)
        click.echo(f"injected {fault}; watch it come back: muster status {directory.root} -w")
        _hold(lasting)
    except drills.FaultError as error:
        fail(str(error))
    finally:
        if lasting is not None:
            lasting.end()
    return []


def _hold(lasting: drills.Lasting | None) -> None:
    """Stay until a fault that lasts is over: with this process it would end at once."""
    while lasting is not None and not lasting.over():
        time.sleep(_POLL)


def _await_verdict(
    directory: RunDirectory, at: float, deadline: float, lasting: drills.Lasting | None
) -> list[dict[str, Any]]:
    """Judge the fault as soon as it is settled, and leave the verdict in the journal."""
    from orchestrator.drill import referee
    from orchestrator.jobfile import from_document
    from orchestrator.journal import read_events
    from orchestrator.layout import read_json
    from orchestrator.local_run import journal_event
    from orchestrator.status import view_from_disk

    spec = from_document(read_json(directory.spec) or {}, surroundings=False)
    while True:
        events = read_events(directory.events)
        places = [n for n, e in enumerate(events) if e.kind == "drill" and e.data["at"] == at]
        view = view_from_disk(directory)
        step = max((rank.beat.step for rank in view.ranks if rank.beat), default=0)
        late = time.monotonic() > deadline
        told = referee.result_of(spec, events, places[0], step, at_end=late)
        if lasting is not None and lasting.over():
            lasting.end()
        if told is not None:
            journal_event(directory, "drill_result", told[0], **told[1])
            return [told[1]]
        time.sleep(_POLL)


def _target(view: RunView) -> drills.Target:
    from orchestrator.layout import read_json

    live = read_json(view.directory.live) or {}
    pids = {
        rank.rank: rank.pid
        for rank in view.ranks
        if rank.pid is not None and rank.exit is None and _is_same(rank.pid, rank.start_time)
    }
    spool = Spool.from_document(live["spool"]) if "spool" in live else None
    ray = processes.mentioning(str(spool.ray)) if spool else []
    known = view.ledger.supervisor
    supervisor = known["pid"] if known and _is_same(known["pid"], known["start_time"]) else None
    number = view.ledger.attempt
    plan = read_json(view.directory.attempt(number).plan) or {}
    driver = live.get("pid") if _is_same(live.get("pid", 0), live.get("start_time")) else None
    return drills.Target(
        pids,
        supervisor,
        tuple(pid for pid in ray if processes.name_of(pid) == "raylet"),
        view.directory.checkpoints,
        {rank: place.index for rank, place in view.places.items()},
        plan.get("simulated_node") or "",
        controller=driver,
        scheduler=view.ledger.scheduler_pid,
        records={rank.rank: spool.drill(number, rank.rank) for rank in view.ranks} if spool else {},
        stop=spool.stop_request(number) if spool else None,
        run_id=view.ledger.run_id,
    )


def _is_same(pid: int, start_time: int | None) -> bool:
    identity = processes.identify(pid)
    return identity is not None and identity.start_time == start_time
