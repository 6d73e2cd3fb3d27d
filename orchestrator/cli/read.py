"""Commands that only read: status, logs, events, incidents, checkpoints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from orchestrator.cli import EXIT_FAILED
from orchestrator.cli.common import job_argument, json_option, print_json, tell
from orchestrator.cli.named import the_named
from orchestrator.cli.remote import controller, needs_controller


@click.command()
@job_argument
@click.option("--ranks", is_flag=True, help="Show the table of ranks too.")
@click.option("-w", "--watch", "watching", is_flag=True, help="Go on until the job has ended.")
@json_option
@needs_controller
def status(job: str, ranks: bool, watching: bool, as_json: bool) -> None:
    """Show where JOB, a run directory or the id of a submitted job, stands."""
    named = the_named(job, watching=watching)
    if as_json and not watching:
        print_json(named.status())
    elif as_json:
        _print_lines(named.watch())
    else:
        from orchestrator import panel

        if watching:
            panel.watch(named.watch())
        else:
            panel.print_summary(named.status(), ranks=ranks)


def _print_lines(documents: Iterable[dict[str, Any]]) -> None:
    for document in documents:
        click.echo(json.dumps(document))
        sys.stdout.flush()


@click.command()
@job_argument
@click.option("--rank", type=int, help="Only this rank; default: all, with their names.")
@click.option("--attempt", type=int, help="Which attempt; default: the newest.")
@click.option("--scheduler", is_flag=True, help="The rendezvous scheduler's log instead.")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until the job has ended.")
@json_option
@needs_controller
def logs(
    job: str, rank: int | None, attempt: int | None, scheduler: bool, follow: bool, as_json: bool
) -> None:
    """Print the raw logs of JOB's ranks; none is lost at a restart."""
    named = the_named(job, watching=follow)
    silent = True
    for writer, document in named.logs(
        rank=rank, attempt=attempt, scheduler=scheduler, follow=follow
    ):
        silent = False
        if as_json:
            click.echo(json.dumps(document))
        else:
            click.echo(f"{writer}: {document['line']}" if writer else document["line"])
    if silent:
        tell("nothing has been written yet")


@click.command()
@job_argument
@json_option
@needs_controller
def events(job: str, as_json: bool) -> None:
    """List what happened to JOB and what was decided, oldest first."""
    recorded = the_named(job).events()
    if as_json:
        print_json({"schema": 1, "observed_at": time.time(), "events": recorded})
        return
    for event in recorded:
        local = datetime.fromtimestamp(event["time"], UTC).astimezone()
        click.echo(
            f"{local:%Y-%m-%d %H:%M:%S}  {event['attempt']:>3}  {event['kind']:<18} "
            f"{event['state'] or '':<10} {event['reason']}"
        )


@click.command()
@click.argument("job", metavar="[JOB]", required=False)
@json_option
@needs_controller
def incidents(job: str | None, as_json: bool) -> None:
    """List the failures of JOB: what died, when it was seen, how it came back.

    Without JOB those of all submitted jobs, the newest first.
    """
    named = None if job is None else the_named(job)
    found = controller().incidents() if named is None else named.incidents()
    worth = {} if named is None else {"goodput": named.status()["goodput"]}
    if as_json:
        print_json({"schema": 1, "observed_at": time.time(), "incidents": found, **worth})
        return
    from orchestrator.panel import print_incidents, print_worth

    print_incidents(found, of_all=named is None)
    if worth and found:
        print_worth(found, worth["goodput"])


@click.command()
@job_argument
@click.argument("action", type=click.Choice(["list", "verify"]), default="list")
@json_option
@needs_controller
def checkpoints(job: str, action: str, as_json: bool) -> None:
    """List the checkpoints of JOB; with `verify`, read every byte of them."""
    from orchestrator.cli.progress import progress

    named = the_named(job)
    with progress("reading checkpoints"):
        document = named.checkpoints(verify=action == "verify")
    if as_json:
        print_json(document)
    else:
        _show_checkpoints(document["checkpoints"], document["quarantined"])
        for row in document.get("snapshots", ()):
            click.echo(f"step {row['step']:>8}  in tmpfs: snapshot {row['path']}")
    if any(row.get("verified") is False for row in document["checkpoints"]):
        sys.exit(EXIT_FAILED)


def _show_checkpoints(rows: list[dict[str, Any]], quarantined: list[str]) -> None:
    if not rows:
        click.echo("no checkpoint yet")
    for row in rows:
        verdict = ""
        if row.get("verified") is not None:
            verdict = f"verified {row['digest'][:12]}" if row["verified"] else row["reason"]
        if row["best"]:
            verdict = f"best  {verdict}"
        click.echo(f"step {row['step']:>8}  {row['path']}  {verdict}".rstrip())
    for path in quarantined:
        click.echo(f"quarantined: {path}")
