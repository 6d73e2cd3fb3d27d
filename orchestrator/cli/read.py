"""Commands that only read: status, logs, events, incidents, checkpoints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import EXIT_FAILED, EXIT_NOT_FOUND
from orchestrator.cli.common import fail, json_option, print_json, run_argument, the_run
from orchestrator.layout import RunDirectory

_POLL = 0.5


@click.command()
@run_argument
@click.option("--ranks", is_flag=True, help="Show the table of ranks too.")
@click.option("-w", "--watch", is_flag=True, help="Go on until the run has ended.")
@json_option
def status(job: str, ranks: bool, watch: bool, as_json: bool) -> None:
    """Show where the run in RUN_DIR stands."""
    from orchestrator.status import document, view_from_disk

    directory = the_run(job)
    if watch and not as_json:
        from orchestrator.display import watch_run

        watch_run(directory)
        return
    while True:
        view = view_from_disk(directory)
        if not as_json:
            from orchestrator.display import print_status

            print_status(view, ranks=ranks)
            return
        if not watch:
            print_json(document(view))
            return
        click.echo(json.dumps(document(view)))
        if view.state.terminal:
            return
        time.sleep(_POLL)


@click.command()
@run_argument
@click.option("--rank", type=int, help="Only this rank; default: all, with their names.")
@click.option("--attempt", type=int, help="Which attempt; default: the newest.")
@click.option("--scheduler", is_flag=True, help="The rendezvous scheduler's log instead.")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until the run has ended.")
@json_option
def logs(
    job: str, rank: int | None, attempt: int | None, scheduler: bool, follow: bool, as_json: bool
) -> None:
    """Print the raw logs of the run in RUN_DIR; none is lost at a restart."""
    directory = the_run(job)
    number = attempt or max(directory.attempts(), default=0)
    if number not in directory.attempts():
        fail(f"{directory.root}: there is no attempt {number}", EXIT_NOT_FOUND)
    paths = _log_paths(directory, number, rank, scheduler=scheduler)
    lines = _follow(paths, directory) if follow else _lines(paths)
    for path, line in lines:
        if as_json:
            click.echo(json.dumps({"file": str(path), "line": line}))
        else:
            click.echo(line if len(paths) == 1 else f"{path.stem}: {line}")


def _log_paths(
    directory: RunDirectory, attempt: int, rank: int | None, *, scheduler: bool
) -> list[Path]:
    files = directory.attempt(attempt)
    if scheduler or rank is not None:
        path = files.log(None if scheduler else rank)
        if not path.exists():
            fail(f"{path}: there is no such log", EXIT_NOT_FOUND)
        return [path]
    found = files.logs.glob("rank-*.log")
    return sorted(found, key=lambda path: int(path.stem.removeprefix("rank-")))


def _lines(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                yield path, line.rstrip("\n")


def _follow(paths: list[Path], directory: RunDirectory) -> Iterator[tuple[Path, str]]:
    from orchestrator.status import is_driven

    files = [(path, open(path, encoding="utf-8", errors="replace")) for path in paths]
    try:
        while True:
            driven = is_driven(directory)
            for path, file in files:
                while line := file.readline():
                    yield path, line.rstrip("\n")
            if not driven:
                return
            sys.stdout.flush()
            time.sleep(_POLL)
    finally:
        for _, file in files:
            file.close()


@click.command()
@run_argument
@json_option
def events(job: str, as_json: bool) -> None:
    """List what happened in RUN_DIR and what was decided, oldest first."""
    from orchestrator.journal import read_events

    recorded = read_events(the_run(job).events)
    if as_json:
        rows = [
            {
                "time": event.time,
                "kind": event.kind,
                "attempt": event.attempt,
                "state": event.state.value if event.state else None,
                "reason": event.reason,
                "data": event.data,
            }
            for event in recorded
        ]
        print_json({"schema": 1, "observed_at": time.time(), "events": rows})
        return
    for event in recorded:
        local = datetime.fromtimestamp(event.time, UTC).astimezone()
        state = event.state.value if event.state else ""
        click.echo(
            f"{local:%Y-%m-%d %H:%M:%S}  {event.attempt:>3}  {event.kind:<18} {state:<10} "
            f"{event.reason}"
        )


@click.command()
@run_argument
@json_option
def incidents(job: str, as_json: bool) -> None:
    """List the failures of RUN_DIR: what died, when it was seen, how it came back."""
    from orchestrator.journal import read_events
    from orchestrator.ledger import fold

    found = fold(read_events(the_run(job).events)).incidents
    if as_json:
        print_json({"schema": 1, "observed_at": time.time(), "incidents": found})
        return
    from orchestrator.display import print_incidents

    print_incidents(found)


@click.command()
@run_argument
@click.argument("action", type=click.Choice(["list", "verify"]), default="list")
@json_option
def checkpoints(job: str, action: str, as_json: bool) -> None:
    """List the checkpoints of RUN_DIR; with `verify`, read every byte of them."""
    from orchestrator.checkpoint_list import document

    found = document(the_run(job), verified=action == "verify")
    if as_json:
        print_json(found)
    else:
        _show_checkpoints(found["checkpoints"], found["quarantined"])
    if any(row.get("verified") is False for row in found["checkpoints"]):
        sys.exit(EXIT_FAILED)


def _show_checkpoints(rows: list[dict[str, Any]], quarantined: list[str]) -> None:
    if not rows:
        click.echo("no checkpoint yet")
    for row in rows:
        verdict = ""
        if "verified" in row:
            verdict = f"verified {row['digest'][:12]}" if row["verified"] else row["reason"]
        if row["best"]:
            verdict = f"best  {verdict}"
        click.echo(f"step {row['step']:>8}  {row['path']}  {verdict}".rstrip())
    for path in quarantined:
        click.echo(f"quarantined: {path}")
