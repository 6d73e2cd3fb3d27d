"""`muster run` and `muster resume`: drive a run in this process."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from orchestrator.cli import EXIT_FAILED, EXIT_PREEMPTED
from orchestrator.cli.common import fail, job_argument, json_option, print_json, the_job
from orchestrator.cli.named import to_order
from orchestrator.cli.remote import controller, needs_controller
from orchestrator.layout import RunDirectory, read_json

# What drives a run takes a second to import, which `resume` of a submitted job does not need.
if TYPE_CHECKING:
    from orchestrator.drill import Fault
    from orchestrator.spec import JobSpec

_FAULT_HELP = "KIND[:RANK][@step:N|@phase:NAME], e.g. kill-rank:3@step:20. May be repeated."


@click.command()
@click.argument("file", type=click.Path())
@click.option("--run-dir", type=click.Path(), help="Default: runs/NAME-TIME.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change a field.")
@click.option("--drill", "faults", multiple=True, metavar="FAULT", help=_FAULT_HELP)
@json_option
def run(
    file: str,
    run_dir: str | None,
    overrides: tuple[str, ...],
    faults: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run the job in FILE on this machine until it has ended."""
    from orchestrator.local_run import RunError, create, default_directory
    from orchestrator.support import not_built

    spec = the_job(file, overrides)
    missing = not_built(spec)
    if missing:
        fail("\n".join(f"{file}: {problem}" for problem in missing))
    if "queue" in spec.given:
        click.echo("queue: a run here waits in no queue; `muster submit` queues it", err=True)
    parsed = _faults(faults, spec)
    try:
        root = Path(run_dir).expanduser().absolute() if run_dir else default_directory(spec)
        directory = create(root, spec, Path(file).read_bytes())
    except RunError as error:
        fail(str(error))
    _drive(directory, spec, parsed, as_json=as_json, by_hand=False)


@click.command()
@job_argument
@click.option("--drill", "faults", multiple=True, metavar="FAULT", help=_FAULT_HELP)
@json_option
@needs_controller
def resume(job: str, faults: tuple[str, ...], as_json: bool) -> None:
    """Continue JOB from its newest checkpoint that verifies.

    JOB is a run directory, which is then driven here, or the id of a submitted job, which is
    queued again.
    """
    target = to_order(job)
    if isinstance(target, RunDirectory):
        _resume_here(target, faults, as_json=as_json)
    elif faults:
        fail(f"--drill is for run directories; once it runs: muster drill {target} --fault …")
    else:
        _resume_submitted(target, as_json=as_json)


def _resume_submitted(job: str, *, as_json: bool) -> None:
    row = controller().resume(job)
    if as_json:
        print_json({"schema": 1, "observed_at": time.time(), **row})
        return
    click.echo(f"{job} is {row['state']}")
    click.echo(f"next: muster status {job} -w")


def _resume_here(directory: RunDirectory, faults: tuple[str, ...], *, as_json: bool) -> None:
    from orchestrator.jobfile import JobFileError, from_document
    from orchestrator.states import JobState
    from orchestrator.status import view_from_disk

    try:
        spec = from_document(read_json(directory.spec) or {})
    except JobFileError as error:
        fail(f"{directory.spec}: {error}")
    submitted = read_json(directory.submitted)
    if submitted:
        fail(f"{directory.root} is the run of a submitted job: muster resume {submitted['job']}")
    parsed = _faults(faults, spec)
    if view_from_disk(directory).ledger.state is not JobState.SUCCEEDED:
        _drive(directory, spec, parsed, as_json=as_json, by_hand=True)
    elif spec.then is None or _has_succeeded(directory.then):
        click.echo(f"{directory.root} has succeeded already: there is nothing to resume.", err=True)
    else:
        _follow(directory, spec, as_json=as_json)


def _faults(texts: tuple[str, ...], spec: JobSpec) -> list[Fault]:
    from orchestrator import drill

    try:
        return [drill.parse(text, spec.resources.ranks) for text in texts]
    except drill.FaultError as error:
        fail(str(error))


def _drive(
    directory: RunDirectory,
    spec: JobSpec,
    faults: list[Fault],
    *,
    as_json: bool,
    by_hand: bool,
) -> NoReturn:
    """Run the job, then what follows it; ends with what the last of them came to."""
    code = _run_to_end(directory, spec, faults, as_json=as_json, by_hand=by_hand)
    if code == 0 and spec.then is not None:
        _follow(directory, spec, as_json=as_json)
    _leave(directory, as_json=as_json, code=code)


def _follow(directory: RunDirectory, spec: JobSpec, *, as_json: bool) -> NoReturn:
    """Run what `then:` asks for, below the run that it follows."""
    import json

    from orchestrator.follow_up import follow_up
    from orchestrator.local_run import RunError, create
    from orchestrator.spec import to_document

    following = follow_up(spec, directory.root)
    assert following is not None
    below = RunDirectory(directory.then)
    try:
        if not below.is_run():
            text = json.dumps(to_document(following), indent=1).encode()
            create(below.root, following, text)
    except RunError as error:
        fail(str(error))
    code = _run_to_end(below, following, [], as_json=as_json, by_hand=False)
    _leave(directory, as_json=as_json, code=code)


def _run_to_end(
    directory: RunDirectory,
    spec: JobSpec,
    faults: list[Fault],
    *,
    as_json: bool,
    by_hand: bool,
) -> int:
    """The exit code: of the run, and where that is good, of its drills."""
    from cluster import command
    from orchestrator.controller import Outcome
    from orchestrator.display import Display, print_end
    from orchestrator.local_run import RunError, drive
    from orchestrator.status import view_from_disk

    try:
        with Display(directory, quiet=as_json) as display:
            outcome = drive(directory, spec, display, faults=faults, by_hand=by_hand)
    except RunError as error:
        fail(str(error))
    finally:
        command.leave()
    if not as_json:
        print_end(view_from_disk(directory))
    held = _drills_held(directory, quiet=as_json)
    if outcome is Outcome.PREEMPTED:
        return EXIT_PREEMPTED
    return 0 if outcome is Outcome.SUCCEEDED and held else EXIT_FAILED


def _drills_held(directory: RunDirectory, *, quiet: bool) -> bool:
    """Print what came of the faults that were injected; whether the run kept its word."""
    from orchestrator.drill.verdict import results_of
    from orchestrator.journal import read_events
    from orchestrator.panel import print_drills

    results = results_of(read_events(directory.events))
    if results:
        print_drills(results, stderr=quiet)
    return all(result["passed"] for result in results)


def _leave(directory: RunDirectory, *, as_json: bool, code: int) -> NoReturn:
    """With --json the job's status, and below `then` that of the job that followed it."""
    from orchestrator.status import document, view_from_disk

    if as_json:
        below = RunDirectory(directory.then)
        then = {"then": document(view_from_disk(below))} if below.is_run() else {}
        print_json({**document(view_from_disk(directory)), **then})
    sys.exit(code)


def _has_succeeded(root: Path) -> bool:
    from orchestrator.states import JobState
    from orchestrator.status import view_from_disk

    below = RunDirectory(root)
    return below.is_run() and view_from_disk(below).ledger.state is JobState.SUCCEEDED
