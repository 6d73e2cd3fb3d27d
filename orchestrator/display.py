"""What a person sees: a live table on a terminal, lines elsewhere, the account at the end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.controller import Controller
from orchestrator.journal import Event
from orchestrator.layout import RunDirectory
from orchestrator.panel import FILE_WIDTH, panel, print_incidents, shown
from orchestrator.states import JobState
from orchestrator.status import RunView, document

_LIVE_PERIOD = 0.25
_LINES_PERIOD = 15.0
_SILENT = frozenset({"warmed", "controller", "attempt_ended", "retired", "created"})


class Display:
    """Shows a run that this process drives. `quiet`: messages on stderr, no table."""

    def __init__(self, directory: RunDirectory, *, quiet: bool) -> None:
        self._directory = directory
        self._animated = not quiet and sys.stdout.isatty()
        # A file has no width of its own, and a table must not be broken at a guess of 80.
        width = None if self._animated else FILE_WIDTH
        self._console = Console(stderr=quiet, highlight=False, width=width)
        self._quiet = quiet
        self._live: Live | None = None
        self._next = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Display:
        self._console.print(f"run directory: {self._directory.root}", soft_wrap=True)
        self._console.print("bringing up Ray and a supervisor: about five seconds")
        if self._animated:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, event: Event) -> None:
        """Print what was recorded."""
        if event.kind in _SILENT:
            return
        clock = time.strftime("%H:%M:%S", time.localtime(event.time))
        elapsed = f"{time.monotonic() - self._began:6.1f} s"
        state = f" {event.state.value}" if event.state else ""
        line = Text(f"{clock} {elapsed} {event.kind}{state}: {event.reason}")
        if event.kind in ("failing", "failure", "refused", "quarantined", "node_failed"):
            line.stylize("red")
        elif event.kind in ("recovered", "succeeded", "resumed"):
            line.stylize("green")
        self._console.print(line, soft_wrap=True)

    def tick(self, controller: Controller) -> None:
        """Refresh the table now and then."""
        now = time.monotonic()
        if now < self._next or self._quiet or controller.way is None:
            return
        self._next = now + (_LIVE_PERIOD if self._live else _LINES_PERIOD)
        view = controller.view()
        if self._live is not None:
            self._live.update(_panel(view), refresh=True)
        elif view.ranks and any(rank.beat for rank in view.ranks):
            self._console.print(_panel(view))


def _panel(view: RunView) -> Group:
    return panel(document(view))


def print_end(view: RunView) -> None:
    """The account of a run that has just ended: result, incidents, places, what next."""
    console = Console(highlight=False)
    for report in reports(view):
        console.print(Text(report.read_text(errors="replace").rstrip()), soft_wrap=True)
        console.print()
    if view.ledger.incidents:
        print_incidents(view.ledger.incidents)
        console.print()
    summary = document(view)
    good = view.state is JobState.SUCCEEDED
    verdict = f"{view.job} {view.state.value}: {view.reason}"
    console.print(Text(verdict, style="bold green" if good else "red"), soft_wrap=True)
    root = view.directory.root
    console.print(f"attempts {summary['attempt']}, goodput {shown(summary['goodput'], '.0%')}")
    console.print(
        f"logs         {view.directory.attempt(max(1, summary['attempt'])).logs}", soft_wrap=True
    )
    console.print(f"checkpoints  {view.directory.checkpoints}", soft_wrap=True)
    console.print(f"next         {_next_command(view, root)}", soft_wrap=True)


def _next_command(view: RunView, root: Path) -> str:
    if view.state is JobState.SUCCEEDED:
        return f"muster incidents {root}   or   muster checkpoints {root} verify"
    if view.ledger.incidents and view.ledger.incidents[-1]["rank"] is not None:
        rank = view.ledger.incidents[-1]["rank"]
        return f"muster logs {root} --rank {rank}   then   muster resume {root}"
    return f"muster events {root}   then   muster resume {root}"


def reports(view: RunView) -> list[Path]:
    """The texts that the last attempt left for the end."""
    if not view.ledger.attempt:
        return []
    return sorted(view.directory.attempt(view.ledger.attempt).reports.glob("*.txt"))
