"""What is asked of the controller about jobs: submit, ps, wait, cancel, hold, release."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from orchestrator.cli import EXIT_FAILED
from orchestrator.cli.columns import columns, length
from orchestrator.cli.common import fail, job_argument, json_option, print_json, tell
from orchestrator.cli.named import to_order
from orchestrator.cli.remote import controller, needs_controller
from orchestrator.client import ENDED, Client, JobRow, Submitted
from orchestrator.layout import RunDirectory
from orchestrator.states import JobState

_LARGEST_FILE = 1 << 20
_STATE = click.Choice([state.value for state in JobState], case_sensitive=False)


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change a field.")
@click.option("--key", help="Idempotency key: the same key and file are the same job.")
@click.option("--wait", "waiting", is_flag=True, help="Go on until all have ended.")
@json_option
@needs_controller
def submit(
    files: tuple[str, ...],
    overrides: tuple[str, ...],
    key: str | None,
    waiting: bool,
    as_json: bool,
) -> None:
    """Hand the job in FILE to the controller; relative paths in it start here.

    Several are handed over in turn, until one is refused. --json prints a document for each.
    """
    if key is not None and len(files) > 1:
        fail("--key names one job: give one FILE with it")
    texts = [_text(file) for file in files]
    client = controller(watching=waiting)
    jobs = []
    for file, text in zip(files, texts, strict=True):
        # Of a bad file the controller tells every mistake, as `muster run` does.
        taken = client.submit(text, file=file, overrides=overrides, key=key)
        jobs.append(taken["job"])
        _tell_submitted(taken, as_json=as_json, waiting=waiting)
    if waiting and not all([_await(client, job, as_json=as_json) for job in jobs]):
        sys.exit(EXIT_FAILED)


def _text(file: str) -> str:
    try:
        if os.path.isfile(file) and os.path.getsize(file) <= _LARGEST_FILE:
            with open(file, encoding="utf-8-sig", newline="") as source:
                return source.read()
    except (OSError, ValueError):
        pass
    # It cannot be read: the job file's reader knows how to say why.
    from orchestrator.jobfile import JobFileError
    from orchestrator.jobfile.loading import text_of

    try:
        return text_of(file)
    except JobFileError as error:
        fail(str(error))


def _tell_submitted(taken: Submitted, *, as_json: bool, waiting: bool) -> None:
    job = taken["job"]
    if as_json and not waiting:
        click.echo(json.dumps(taken))
    elif as_json:
        tell(f"submitted {job}")
    else:
        click.echo(job)
        click.echo(f"next: muster status {job} -w", err=True)


def _await(client: Client, job: str, *, as_json: bool) -> bool:
    return _tell_ended(client.wait(job), as_json=as_json)


def _tell_ended(document: dict[str, Any], *, as_json: bool) -> bool:
    """Whether it succeeded; the end is printed."""
    if as_json:
        click.echo(json.dumps(document))
    else:
        click.echo(f"{document['job']} {document['state']}: {document['reason']}")
    return bool(document["state"] == JobState.SUCCEEDED.value)


@click.command()
@job_argument
@click.option("--timeout", type=click.FloatRange(min=0), help="Give up after so many seconds.")
@json_option
@needs_controller
def wait(job: str, timeout: float | None, as_json: bool) -> None:
    """Wait until JOB has ended: exit code 0 if it succeeded, 1 if not, or not in time."""
    from orchestrator.cli.on_disk import RunOnDisk
    from orchestrator.cli.progress import progress
    from orchestrator.cli.submitted import SubmittedJob

    target = to_order(job)
    named = (
        RunOnDisk(target)
        if isinstance(target, RunDirectory)
        else SubmittedJob(target, watching=True)
    )
    try:
        with progress(f"waiting for {job}"):
            document = named.wait(timeout)
    except TimeoutError as error:
        fail(str(error), EXIT_FAILED)
    if not _tell_ended(document, as_json=as_json):
        sys.exit(EXIT_FAILED)


@click.command()
@click.option("-a", "--all", "ended_too", is_flag=True, help="Show those that have ended, too.")
@click.option("--state", "states", type=_STATE, multiple=True, help="Only these. Repeatable.")
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--user", help="Only jobs of this user.")
@json_option
@needs_controller
def ps(
    ended_too: bool, states: tuple[str, ...], queue: str | None, user: str | None, as_json: bool
) -> None:
    """List jobs that run or wait: in which place, and why."""
    chosen = states or (() if ended_too else _not_ended())
    rows = sorted(controller().jobs(states=chosen, queue=queue, user=user), key=_order)
    if as_json:
        click.echo(json.dumps({"schema": 1, "observed_at": time.time(), "jobs": rows}))
        return
    if rows:
        click.echo("\n".join(_table(rows, time.time())))
    click.echo(
        _summary(rows) + ("" if ended_too or states else "; --all shows ended ones"), err=True
    )


def _not_ended() -> tuple[str, ...]:
    return tuple(state.value for state in JobState if not state.terminal)


_GROUPS = {JobState.QUEUED.value: 1, JobState.HELD.value: 2, **dict.fromkeys(ENDED, 3)}


def _order(row: JobRow) -> tuple[int, float, float]:
    """Those that run first, the oldest first; then the line in its order; then the ended."""
    group = _GROUPS.get(row["state"], 0)
    place = row["position"]
    newest_first = -row["submitted_at"] if group == 3 else row["submitted_at"]
    return group, float("inf") if place is None else place, newest_first


_HEADINGS = ("JOB", "STATE", "USER", "QUEUE", "PRIO", "DEVICE", "RANKS", "AGE", "POS", "REASON")
_NUMBERS = frozenset({4, 6, 7, 8})


def _table(rows: list[JobRow], now: float) -> list[str]:
    return columns(_HEADINGS, [_cells(row, now) for row in rows], right=_NUMBERS)


def _cells(row: JobRow, now: float) -> tuple[str, ...]:
    return (
        row["job"],
        row["state"],
        row["user"],
        row["queue"],
        _known(row["priority"]),
        row["device"],
        _known(row["ranks"]),
        length(max(0.0, now - row["submitted_at"])),
        _known(row["position"]),
        row["reason"] or ("not yet known" if row["state"] == JobState.QUEUED.value else ""),
    )


def _known(value: int | None) -> str:
    return "–" if value is None else str(value)


def _summary(rows: list[JobRow]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no jobs"


def _ordering(
    name: str, order: Callable[[Client, str], JobRow], wanted: JobState, what: str
) -> click.Command:
    @needs_controller
    def give(job: str, as_json: bool) -> None:
        target = to_order(job)
        if isinstance(target, RunDirectory):
            fail(
                f"{job} was not submitted: `muster run` drives it, and Ctrl-C there stops it; "
                f"`muster resume {job}` continues it"
            )
        row = order(controller(), target)
        if as_json:
            print_json({"schema": 1, "observed_at": time.time(), **row})
        else:
            click.echo(_become(row, wanted))

    return click.command(name, help=what)(job_argument(json_option(give)))


def _become(row: JobRow, wanted: JobState) -> str:
    """What an order has done: a running job obeys a little later."""
    job, state = row["job"], row["state"]
    if state == wanted.value:
        return f"{job} is {state}: {row['reason'] or ''}".rstrip(": ")
    return f"{job} is {state} and will be {wanted.value}; see it happen: muster status {job} -w"


cancel = _ordering(
    "cancel",
    Client.cancel,
    JobState.CANCELLED,
    "Stop JOB for good, or take it out of the queue; `resume` undoes it.",
)
hold = _ordering(
    "hold",
    Client.hold,
    JobState.HELD,
    "Keep JOB from running until it is released; one that runs is stopped.",
)
release = _ordering("release", Client.release, JobState.QUEUED, "Let JOB, which is held, go on.")
