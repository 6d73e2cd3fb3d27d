"""`muster explain` and `muster report`: why a run did what it did, as text and as a page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import EXIT_NOT_FOUND, EXIT_USAGE
from orchestrator.cli.common import fail, job_argument, json_option, print_json
from orchestrator.cli.named import the_named
from orchestrator.cli.remote import needs_controller


@click.command()
@click.argument("job", metavar="[JOB]", required=False)
@click.option("--attempt", type=int, help="The failure of this attempt; default: the newest.")
@click.option("--all", "all_", is_flag=True, help="Every failure.")
@click.option("--tables", is_flag=True, help="Print both tables with their sources instead.")
@json_option
@needs_controller
def explain(job: str | None, attempt: int | None, all_: bool, tables: bool, as_json: bool) -> None:
    """Explain what was decided after a failure of JOB, and why.

    Evidence, the rule that matched and those asked before it, class, counts and budgets, the row
    of the policy, the checkpoint, and what came of it.
    """
    if tables:
        return _tables(as_json=as_json)
    if job is None:
        fail("say which JOB, or --tables", EXIT_USAGE)
    told = the_named(job).explain()
    chosen = _chosen(told, attempt, all_=all_)
    if as_json:
        return print_json({**told, "explanations": chosen})
    from orchestrator.explain_text import lines

    for line in lines(told, chosen):
        click.echo(line)
    if not told["explanations"]:
        click.echo("no failure, so there was nothing to decide")


def _tables(*, as_json: bool) -> None:
    from orchestrator.explain import tables
    from orchestrator.explain_text import table_lines

    if as_json:
        return print_json({"schema": 1, "observed_at": time.time(), **tables()})
    for line in table_lines(tables()):
        click.echo(line)


def _chosen(told: dict[str, Any], attempt: int | None, *, all_: bool) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = told["explanations"]
    if attempt is not None:
        found = [one for one in every if one["attempt"] == attempt]
        if not found:
            fail(f"{told['job']}: no failure of an attempt {attempt} is known", EXIT_NOT_FOUND)
        return found
    return every if all_ else every[-1:]


@click.command()
@job_argument
@click.option("-o", "--output", metavar="FILE", help="Default: JOB-report.html where you stand.")
@needs_controller
def report(job: str, output: str | None) -> None:
    """Write an account of JOB as one HTML page that needs nothing else.

    Summary, time line, failures with the way back, decisions, budgets, evidence.
    """
    from orchestrator.layout import write_bytes
    from orchestrator.report import page

    named = the_named(job)
    status, explained = named.status(), named.explain()
    html = page(status, named.events(), explained)
    path = Path(output) if output else Path(f"{Path(status['run_dir']).name}-report.html")
    try:
        write_bytes(path.absolute(), html.encode("utf-8", errors="replace"))
    except OSError as error:
        fail(f"{path}: {error.strerror or error}", EXIT_USAGE)
    click.echo(str(path.absolute()))
