"""What several commands share: reading jobs and runs, ending with the right code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from orchestrator.cli import EXIT_USAGE

if TYPE_CHECKING:
    from orchestrator.spec import JobSpec

_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(function: _F) -> _F:
    """`--json`: one document for programs on stdout, messages on stderr."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return option(function)


def job_argument(function: _F) -> _F:
    """`JOB`: a run directory, or the id of a submitted job."""
    return click.argument("job", metavar="JOB")(function)


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Say what is wrong on stderr and leave."""
    click.echo(message, err=True)
    sys.exit(code)


def tell(message: str) -> None:
    """Say something on stderr, beside the result."""
    click.echo(f"muster: {message}", err=True)


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
