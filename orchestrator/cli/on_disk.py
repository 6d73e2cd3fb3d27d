"""A run as its directory shows it, whoever drives it, and whether or not anybody does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.cli import EXIT_NOT_FOUND
from orchestrator.cli.common import fail
from orchestrator.layout import RunDirectory

_POLL = 0.25


class RunOnDisk:
    """What reading commands ask of a run directory. Ends with code 3 for what is not there."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def status(self) -> dict[str, Any]:
        """The document of `status --json`."""
        from orchestrator.status import document, view_from_disk

        return document(view_from_disk(self._directory))

    def watch(self) -> Iterator[dict[str, Any]]:
        """Documents of `status --json` until the run has ended."""
        from orchestrator.status import document, view_from_disk

        while True:
            view = view_from_disk(self._directory)
            yield document(view)
            if view.state.terminal:
                return
            time.sleep(_POLL)

    def wait(self, timeout: float | None) -> dict[str, Any]:
        """The last document of `watch`. Raises TimeoutError after so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for summary in self.watch():
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{self._directory.root} is still {summary['state']}")
        return summary

    def logs(
        self, *, rank: int | None, attempt: int | None, scheduler: bool, follow: bool
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Lines, each with the name of what wrote it (empty where only one did)."""
        root = self._directory
        number = attempt or max(root.attempts(), default=0)
        if number not in root.attempts():
            fail(f"{root.root}: there is no attempt {number}", EXIT_NOT_FOUND)
        paths = self._log_paths(number, rank, scheduler=scheduler)
        lines = self._follow(paths) if follow else _lines(paths)
        for path, line in lines:
            yield "" if len(paths) == 1 else path.stem, {"file": str(path), "line": line}

    def events(self) -> list[dict[str, Any]]:
        """What happened, oldest first."""
        from orchestrator.journal import read_events

        return [
            {
                "time": event.time,
                "kind": event.kind,
                "attempt": event.attempt,
                "state": event.state.value if event.state else None,
                "reason": event.reason,
                "data": event.data,
            }
            for event in read_events(self._directory.events)
        ]

    def incidents(self) -> list[dict[str, Any]]:
        """The failures, oldest first."""
        from orchestrator.journal import read_events
        from orchestrator.ledger import fold

        return fold(read_events(self._directory.events)).incidents

    def explain(self) -> dict[str, Any]:
        """The document of `explain --json`, every incident included."""
        from orchestrator.explain import document
        from orchestrator.journal import read_events
        from orchestrator.layout import read_json
        from orchestrator.status import goodput, view_from_disk

        view = view_from_disk(self._directory)
        return document(
            read_events(self._directory.events),
            read_json(self._directory.spec),
            job=view.job,
            run_dir=str(self._directory.root),
            observed_at=view.observed_at,
            goodput=goodput(view),
        )

    def checkpoints(self, *, verify: bool) -> dict[str, Any]:
        """Checkpoints and what was quarantined; with `verify` every byte of them is read."""
        from orchestrator.checkpoint_list import document

        return document(self._directory, verified=verify)

    def _log_paths(self, attempt: int, rank: int | None, *, scheduler: bool) -> list[Path]:
        files = self._directory.attempt(attempt)
        if scheduler or rank is not None:
            path = files.log(None if scheduler else rank)
            if not path.exists():
                fail(f"{path}: there is no such log", EXIT_NOT_FOUND)
            return [path]
        found = files.logs.glob("rank-*.log")
        return sorted(found, key=lambda path: int(path.stem.removeprefix("rank-")))

    def _follow(self, paths: list[Path]) -> Iterator[tuple[Path, str]]:
        from orchestrator.status import is_driven

        files = [(path, open(path, encoding="utf-8", errors="replace")) for path in paths]
        try:
            while True:
                driven = is_driven(self._directory)
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


def _lines(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                yield path, line.rstrip("\n")
