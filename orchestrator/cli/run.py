"""`muster run` and `muster resume`: drive a run in this process."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import EXIT_FAILED
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
    if view_from_disk(directory).ledger.state is JobState.SUCCEEDED:
        click.echo(f"{directory.root} has succeeded already: there is nothing to resume.", err=True)
        return
    _drive(directory, spec, _faults(faults, spec), as_json=as_json, by_hand=True)


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
) -> None:
    from cluster import command
    from orchestrator.controller import Outcome
    from orchestrator.display import Display, print_end
    from orchestrator.local_run import RunError, drive
    from orchestrator.status import document, view_from_disk

    try:
        with Display(directory, quiet=as_json) as display:
            outcome = drive(directory, spec, display, faults=faults, by_hand=by_hand)
    except RunError as error:
        fail(str(error))
    finally:
        command.leave()
    view = view_from_disk(directory)
    if as_json:
        print_json(document(view))
    else:
        print_end(view)
    sys.exit(0 if outcome is Outcome.SUCCEEDED else EXIT_FAILED)
