"""`muster run` and `muster resume`: drive a run in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator import drill
from orchestrator.cli import EXIT_FAILED
from orchestrator.cli.common import fail, json_option, print_json, the_job, the_run
from orchestrator.controller import Outcome
from orchestrator.layout import RunDirectory, read_json
from orchestrator.spec import JobSpec
from orchestrator.states import JobState

_EXIT_CODES = {Outcome.SUCCEEDED: 0, Outcome.FAILED: EXIT_FAILED, Outcome.CANCELLED: EXIT_FAILED}

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
@click.argument("job", metavar="RUN_DIR")
@click.option("--drill", "faults", multiple=True, metavar="FAULT", help=_FAULT_HELP)
@json_option
def resume(job: str, faults: tuple[str, ...], as_json: bool) -> None:
    """Continue the run in RUN_DIR from its newest checkpoint that verifies."""
    from orchestrator.jobfile import JobFileError, from_document
    from orchestrator.status import view_from_disk

    directory = the_run(job)
    try:
        spec = from_document(read_json(directory.spec) or {})
    except JobFileError as error:
        fail(f"{directory.spec}: {error}")
    if view_from_disk(directory).ledger.state is JobState.SUCCEEDED:
        click.echo(f"{directory.root} has succeeded already: there is nothing to resume.", err=True)
        return
    _drive(directory, spec, _faults(faults, spec), as_json=as_json, by_hand=True)


def _faults(texts: tuple[str, ...], spec: JobSpec) -> list[drill.Fault]:
    try:
        return [drill.parse(text, spec.resources.ranks) for text in texts]
    except drill.FaultError as error:
        fail(str(error))


def _drive(
    directory: RunDirectory,
    spec: JobSpec,
    faults: list[drill.Fault],
    *,
    as_json: bool,
    by_hand: bool,
) -> None:
    from cluster import command
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
    sys.exit(_EXIT_CODES[outcome])
