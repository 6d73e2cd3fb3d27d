"""What several commands share: reading jobs and runs, ending with the right code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from orchestrator.cli import EXIT_NOT_FOUND, EXIT_USAGE
from orchestrator.layout import RunDirectory
from orchestrator.spec import JobSpec
from orchestrator.status import find_run

_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(function: _F) -> _F:
    """`--json`: one document for programs on stdout, messages on stderr."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return option(function)


def run_argument(function: _F) -> _F:
    """`JOB`: a run directory."""
    return click.argument("job", metavar="RUN_DIR")(function)


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Say what is wrong on stderr and leave."""
    click.echo(message, err=True)
    sys.exit(code)


def the_run(text: str) -> RunDirectory:
    """The run that was named; ends with code 3 if there is none."""
    directory = find_run(text)
    if directory is None:
        fail(
            f"{text}: no run here (a run directory holds spec.json and events.jsonl)",
            EXIT_NOT_FOUND,
        )
    return directory


def the_job(file: str, overrides: tuple[str, ...]) -> JobSpec:
    """A validated job; ends with code 2 and every mistake otherwise."""
    from orchestrator.jobfile import JobFileError, load

    try:
        return load(Path(file), overrides=overrides)
    except JobFileError as error:
        fail(str(error))


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2))
