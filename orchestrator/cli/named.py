"""What a person may call a job: the directory of its run, or the id that it was given."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli import EXIT_NOT_FOUND
from orchestrator.cli.common import fail
from orchestrator.layout import Home, RunDirectory

if TYPE_CHECKING:
    from orchestrator.cli.on_disk import RunOnDisk
    from orchestrator.cli.submitted import SubmittedJob

_ID = re.compile(r"[a-z0-9][a-z0-9._-]*-[0-9a-f]{6}", re.ASCII)


def the_named(text: str, *, watching: bool = False) -> RunOnDisk | SubmittedJob:
    """Where to read about it; ends with code 3 if it can be neither."""
    directory = run_directory(text)
    if directory is not None:
        from orchestrator.cli.on_disk import RunOnDisk

        return RunOnDisk(directory)
    from orchestrator.cli.submitted import SubmittedJob

    return SubmittedJob(the_id(text), watching=watching)


def to_order(text: str) -> RunDirectory | str:
    """Whom to order: the id of a controller's job, even by its directory, else a run directory.

    Ends with code 3 if it can be neither.
    """
    directory = run_directory(text)
    if directory is None:
        return the_id(text)
    submitted = directory.root.resolve().parent == Home.of(os.environ).runs.resolve()
    return directory.root.name if submitted else directory


def run_directory(text: str) -> RunDirectory | None:
    """The run directory that was named, or None."""
    try:
        directory = RunDirectory(Path(text).expanduser().absolute())
        return directory if directory.is_run() else None
    except (OSError, RuntimeError, ValueError):
        return None  # no name of a file: too long, another's, a home that there is not


def the_id(text: str) -> str:
    """The id of a submitted job, as far as its form goes; ends with code 3 otherwise."""
    if _ID.fullmatch(text):
        return text
    fail(
        f"{text}: no run here (a run directory holds spec.json and events.jsonl), and no id of a "
        "submitted job (NAME-1a2b3c, as `muster ps --all` lists them)",
        EXIT_NOT_FOUND,
    )
